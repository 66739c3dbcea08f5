"""What a usable PostgreSQL with TimescaleDB is, and how to recognise one that the system already has.

Usable means PostgreSQL >= 15 with the TimescaleDB extension's files in the directories that this very server looks
in. A PostgreSQL without TimescaleDB is passed over, not repaired: the system stays as it is.
"""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

POSTGRES_MAJOR_MIN = 15  # TimescaleDB 2.19 supports no older one that Debian still ships

# (directory of programs, share directory, library directory), {major} to be filled in
SYSTEM_LAYOUTS = (
    ("usr/lib/postgresql/{major}/bin", "usr/share/postgresql/{major}", "usr/lib/postgresql/{major}/lib"),  # Debian
    ("usr/pgsql-{major}/bin", "usr/pgsql-{major}/share", "usr/pgsql-{major}/lib"),  # PostgreSQL's own RPMs
)


@dataclass(frozen=True, slots=True)
class PgInstall:
    """A PostgreSQL with TimescaleDB that can be run from where it lies."""

    bin_dir: Path
    origin: Literal["system", "provisioned"]
    postgres_version: str
    timescaledb_version: str
    notes: str = ""

    @property
    def postgres_major(self) -> int:
        return int(self.postgres_version.partition(".")[0])

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)

    def describe(self) -> str:
        """One line for people: versions, origin, place."""
        notes = f", {self.notes}" if self.notes else ""
        return (
            f"PostgreSQL {self.postgres_version} + TimescaleDB {self.timescaledb_version}"
            f" ({self.origin}, {self.bin_dir}{notes})"
        )


def look_in(
    root: Path, origin: Literal["system", "provisioned"], majors: Iterable[int], notes: str = ""
) -> PgInstall | None:
    """Newest usable PostgreSQL below `root`, or None."""
    for major in sorted(majors, reverse=True):
        for layout in SYSTEM_LAYOUTS:
            bin_dir, share, lib = (root / part.format(major=major) for part in layout)
            timescaledb = _timescaledb_version(share / "extension" / "timescaledb.control")
            if timescaledb is None or not (lib / f"timescaledb-{timescaledb}.so").is_file():
                continue
            postgres = postgres_version(bin_dir / "postgres")
            if postgres is not None and (bin_dir / "initdb").is_file():
                return PgInstall(bin_dir, origin, postgres, timescaledb, notes)
    return None


def find_system(root: Path = Path("/")) -> PgInstall | None:
    """A system install with both PostgreSQL >= 15 and TimescaleDB, newest first, or None."""
    found = [*root.glob("usr/lib/postgresql/*/bin"), *root.glob("usr/pgsql-*/bin")]
    majors = {int(digits[-1]) for path in found if (digits := re.findall(r"\d+", path.parent.name))}
    return look_in(root, "system", (major for major in majors if major >= POSTGRES_MAJOR_MIN))


def postgres_version(postgres: Path) -> str | None:
    """Version that the program itself prints; None if it is missing or does not run."""
    try:
        done = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)*)", done.stdout)
    return match[1] if match else None


def _timescaledb_version(control: Path) -> str | None:
    try:
        match = re.search(r"^default_version\s*=\s*'([^']+)'", control.read_text(), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None
