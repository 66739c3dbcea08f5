"""As whom PostgreSQL runs: the user who starts it, or, because PostgreSQL refuses root, a system account of its own.

The account is made when root first needs it and carries a comment that says so; only an account with that comment
is ever removed again.
"""

import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.embedded.errors import USE_A_URL, EmbeddedError

NAME = "meterwatch"
COMMENT = "meterwatch embedded database"


@dataclass(frozen=True, slots=True)
class Account:
    """The user that PostgreSQL's processes and files belong to."""

    uid: int
    gid: int
    name: str

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()

    def popen_options(self) -> dict[str, Any]:
        """Arguments for subprocess that make a child this user; none if we already are."""
        return {} if self.is_us else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Hand a file or directory that we made to this user."""
        if not self.is_us:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def choose(pgdata: Path) -> Account:
    """The account for a cluster: the owner of its files if it exists, else us, else (as root) our system account."""
    owner = pgdata.stat().st_uid if pgdata.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise EmbeddedError(
                f"{pgdata} belongs to user {_name(owner)}, and PostgreSQL insists on owning it: start as that user,"
                f" or set database.data_dir. {USE_A_URL}"
            )
        return Account(os.geteuid(), os.getegid(), _name(os.geteuid()))
    if owner:
        return Account(owner, pgdata.stat().st_gid, _name(owner))
    entry = system_account() or _create()
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def system_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(NAME)
    except KeyError:
        return None


def remove_system_account() -> bool:
    """Remove the account if we made it and nothing runs as it; True if it is gone now."""
    entry = system_account()
    if os.geteuid() != 0 or entry is None or entry.pw_gecos != COMMENT:
        return False
    return subprocess.run(["userdel", NAME], capture_output=True, check=False).returncode == 0


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for PostgreSQL's programs: nothing of ours that changes how they work (PG*, LD_*, locale)."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(extra or {})}


def _create() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", "--comment", COMMENT, NAME]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stderr.strip()
    except FileNotFoundError:
        said = "the program useradd is missing"
    entry = system_account()  # another start may have made it meanwhile
    if entry is None:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the user {NAME} could not be made ({said}): start as an ordinary"
            f" user. {USE_A_URL}"
        )
    return entry


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid if uid is not None else -1).pw_name
    except (KeyError, OverflowError):
        return str(uid)
