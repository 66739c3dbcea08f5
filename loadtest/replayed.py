"""The rules over stored reads, as `meterwatch rules replay` runs them, for the bench."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime

PROGRAM = "from meterwatch.cli import app; app()"


def replay_mreads_per_s(database_url: str, from_us: int, to_us: int) -> float:
    """Million reads a second of a replay of (from_us, to_us], the service idle meanwhile."""
    span = [datetime.fromtimestamp(us / 1e6, UTC).isoformat() for us in (from_us, to_us)]
    command = [sys.executable, "-c", PROGRAM, "rules", "replay", "--from", span[0], "--to", span[1], "-o", "json"]
    environment = os.environ | {"METERWATCH_DATABASE__URL": database_url}
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    found = re.search(r"([0-9,]+) reads/s", done.stderr)
    if found is None:
        raise RuntimeError(f"the replay said {done.stderr!r}; its speed was expected")
    return int(found[1].replace(",", "")) / 1e6
