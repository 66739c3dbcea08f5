"""The embedded TimescaleDB: a private PostgreSQL that comes and goes with the service.

Used when no database URL is configured. `find_or_provision` answers where PostgreSQL and TimescaleDB are, fetching
them without root if the system has none; `EmbeddedCluster` runs one private cluster on a data directory. Nothing
here knows the schema or what the database is for.
"""

from storage.embedded.cluster import EmbeddedCluster
from storage.embedded.errors import EmbeddedError
from storage.embedded.install import PgInstall
from storage.embedded.launch import Lifetime
from storage.embedded.paths import cache_dir, data_dir
from storage.embedded.provision import find_or_provision

__all__ = [
    "EmbeddedCluster",
    "EmbeddedError",
    "Lifetime",
    "PgInstall",
    "cache_dir",
    "data_dir",
    "find_or_provision",
]
