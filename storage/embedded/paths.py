"""Where the embedded database keeps its files: one rule for root, one for everybody else.

    who            cluster (data)                 provisioned PostgreSQL (cache)
    root           /var/lib/meterwatch            /var/cache/meterwatch
    ordinary user  $XDG_DATA_HOME/meterwatch      $XDG_CACHE_HOME/meterwatch
    override       METERWATCH_DATA_DIR            METERWATCH_CACHE_DIR

Root has places of its own because PostgreSQL will not run as root, and the account it runs as cannot enter /root.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from storage.embedded.errors import USE_A_URL, EmbeddedError


def data_dir(env: Mapping[str, str] = os.environ, *, root: bool | None = None) -> Path:
    """Directory of the embedded cluster; not created here."""
    return _choose(env, "METERWATCH_DATA_DIR", "XDG_DATA_HOME", ".local/share", "/var/lib/meterwatch", root)


def cache_dir(env: Mapping[str, str] = os.environ, *, root: bool | None = None) -> Path:
    """Directory of the provisioned PostgreSQL and TimescaleDB; not created here."""
    return _choose(env, "METERWATCH_CACHE_DIR", "XDG_CACHE_HOME", ".cache", "/var/cache/meterwatch", root)


def _choose(
    env: Mapping[str, str], override: str, xdg: str, under_home: str, root_path: str, root: bool | None
) -> Path:
    if env.get(override):
        return Path(env[override]).expanduser().absolute()
    if os.geteuid() == 0 if root is None else root:
        return Path(root_path)
    if env.get(xdg, "").startswith("/"):  # the XDG rules: a relative value is to be ignored
        return Path(env[xdg]) / "meterwatch"
    home = env.get("HOME", "")
    if not home.startswith("/"):
        raise EmbeddedError(f"HOME is not set, so there is no place for the embedded database: set {override}.")
    return Path(home) / under_home / "meterwatch"


def make_dir(path: Path, mode: int) -> None:
    """Create a directory and its parents, with exactly this mode; EmbeddedError in one sentence if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o7777 != mode:
            path.chmod(mode)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(path))
    except OSError as error:
        raise EmbeddedError(
            f"Cannot write to {path} ({error.strerror}): set database.data_dir and METERWATCH_CACHE_DIR to"
            f" directories that can be written. {USE_A_URL}"
        ) from error
