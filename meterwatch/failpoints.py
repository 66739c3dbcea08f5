"""Places at which a test may kill the service: for tests only, never set this in production.

METERWATCH_FAILPOINT=name:n sends SIGKILL to the process itself at its n-th passage of a named place on a batch's way,
or on that of a call which alters something. Unset, a passage costs one comparison. Promises: no cleanup of any kind
runs, as in a real crash; a name that is in neither list is refused at start, so no test waits for a place that does not
exist.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

from meterwatch.errors import ConfigError

VARIABLE: Final = "METERWATCH_FAILPOINT"
POINTS: Final = (
    "after_decode",  # the batch is valid, nothing is stored
    "after_copy",  # reads (or events) and ledger row are committed, the rules have not seen them
    "before_transitions",  # the rules have spoken, nothing of it is committed
    "before_publish",  # transitions are committed, no subscriber was told
    "after_transitions",  # subscribers were told, the batch is not answered
    "inside_ack",  # the ack is made and not sent
)
CALL_POINTS: Final = (
    "before_change",  # it is on record that it is begun, and nothing is done
    "after_change",  # it is done, and its outcome is not on record
)


class Failpoint:
    """One armed place, or none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._name: str | None = None
        self._left = 0
        text = environment.get(VARIABLE)
        if not text:
            return
        name, _, count = text.partition(":")
        if name not in (*POINTS, *CALL_POINTS) or not count.isascii() or not count.isdigit() or int(count) < 1:
            expected = f"expected name:n with n from 1 and a name of {', '.join((*POINTS, *CALL_POINTS))}"
            raise ConfigError([f"{VARIABLE}={text!r}: {expected}; unset it outside tests."])
        self._name, self._left = name, int(count)

    def passed(self, name: str) -> None:
        """Count a passage; at the armed one the process is gone."""
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


passed: Final = Failpoint(os.environ).passed
