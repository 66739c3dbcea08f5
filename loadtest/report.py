"""What a bench says of itself: the machine and versions behind the figures, the table, the file."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PACKAGES = ("grpcio", "protobuf", "numpy", "psycopg", "uvloop")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, kernel."""
    text = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """Commit of the work tree, `-dirty` if it has changes; `unknown` outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Python and the packages that matter for speed."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def show(
    console: Console,
    figures: Mapping[str, float],
    targets: Mapping[str, tuple[float, float, str]],
    missing: Mapping[str, str] | None = None,
) -> None:
    """Print the figures beside what they should reach; targets: key -> (reach, stretch, meaning).

    missing: key -> why it was not measured.
    """
    table = Table(box=None, pad_edge=False)
    for name, justify in (("key", "left"), ("measured", "right"), ("reach", "right"), ("stretch", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("meaning")
    for key, value in figures.items():
        reach, stretch, meaning = targets.get(key, (None, None, ""))
        table.add_row(key, _number(value), _number(reach), _number(stretch), meaning)
    for key, why in (missing or {}).items():
        if key not in figures:
            table.add_row(key, "-", "", "", why)
    console.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
