"""The one error of the embedded database: something on this machine is missing or in the way.

Its text is one or two sentences for the person who started the service: what was found, what was expected, what to
change. It is raised at start only; a cluster that fails later shows as lost connections, like any other database.
"""

from meterwatch.errors import ConfigError

USE_A_URL = "Or give a database of your own: METERWATCH_DATABASE__URL=postgresql://user@host/name"


class EmbeddedError(ConfigError):
    """The embedded database cannot be provisioned or started."""

    def __init__(self, sentence: str) -> None:
        super().__init__([sentence])
