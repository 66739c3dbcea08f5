"""`meterwatch demo`: the main job on real reads, with faults, in about a minute; see run()."""

from __future__ import annotations

from pathlib import Path


def run(json_path: Path | None = None) -> None:
    """Not there yet."""
    raise SystemExit(f"the demo is not built yet; nothing was written to {json_path}")
