"""C libraries of our own (tests/preload) that are loaded into PostgreSQL and nothing else, and change its disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "preload"


def compiled(name: str, directory: Path) -> Path:
    """The library, made in a directory that PostgreSQL's user can get at; skips the test where no compiler is."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here (cc, gcc), so nothing can be loaded into PostgreSQL")
    library = directory / f"{name}.so"
    source = SOURCES / f"{name}.c"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-U_FORTIFY_SOURCE"]
    subprocess.run([*command, "-o", str(library), str(source), "-ldl"], check=True)
    library.chmod(0o755)
    return library


def loading(library: Path, **variables: str) -> str:
    """Python for a service's process before it starts: its PostgreSQL gets the library, and these variables."""
    environment = {"LD_PRELOAD": str(library), **variables}
    return f"""
import storage.embedded.launch
clean_environment = storage.embedded.launch.clean_environment
storage.embedded.launch.clean_environment = lambda extra=None: clean_environment(extra) | {environment!r}
"""
