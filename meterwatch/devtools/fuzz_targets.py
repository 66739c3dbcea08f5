"""Everything `meterwatch.devtools.fuzz` aims at: whatever reads what others send."""

from __future__ import annotations

from typing import Final

from meterwatch.devtools.fuzz_messages import MESSAGES
from meterwatch.devtools.fuzz_target import Target
from meterwatch.devtools.fuzz_texts import TEXTS

TARGETS: Final[dict[str, Target]] = {**MESSAGES, **TEXTS}
