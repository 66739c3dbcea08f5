"""Removes what the embedded database set up on this machine, and says what.

The cluster with its data, the provisioned PostgreSQL, and the account made for it. A cluster that a living service
uses is left alone, and so are programs that another cluster runs from and an account that still has a cluster in root's
own place.
"""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from storage.embedded import account, processes
from storage.embedded.errors import EmbeddedError
from storage.embedded.paths import data_dir
from storage.embedded.provision import MANIFEST

# Directories may be the operator's choice and hold more than ours: only these names are ever removed. `peers` is what
# `make bench-peers` compares with.
CLUSTER_NAMES = ("pgdata", "pgdata.new-*", "log", "run", "owner.lock", "startup.log", "*.conf")
CACHE_NAMES = (MANIFEST, f".{MANIFEST}.*", "postgresql-*", ".building-*", "provision.lock", "peers")


def clean(data: Path, cache: Path, progress: Callable[[str], None]) -> None:
    """Stop and remove the cluster, then the provisioned programs.

    EmbeddedError if a service is using the cluster; nothing is removed then.
    """
    pgdata = data.resolve() / "pgdata"
    if _in_use(data / "owner.lock"):
        raise EmbeddedError(f"A meterwatch is using the database in {data}: stop it first.")
    if processes.of_cluster(pgdata):
        progress(f"Stopping the PostgreSQL that runs on {data}")
        processes.shut_down(pgdata, progress)
    removed = [f"the embedded database and its data: {data}"] if _remove(data, CLUSTER_NAMES) else []
    users = processes.run_from(cache.resolve())
    if users:
        progress(f"Kept the provisioned PostgreSQL and TimescaleDB in {cache}: process {users[0]} runs from there")
    elif _remove(cache, CACHE_NAMES):
        removed.append(f"the provisioned PostgreSQL and TimescaleDB: {cache}")
    for what in removed:
        progress(f"Removed {what}")
    if not removed and not users:
        progress("No embedded database to remove")


def clean_account(progress: Callable[[str], None]) -> None:
    """Remove the system account if we made it and nothing needs it any more."""
    if not (data_dir({}, root=True) / "pgdata").exists() and account.remove_system_account():
        progress(f"Removed the system account {account.NAME}")


def _in_use(lock: Path) -> bool:
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _remove(directory: Path, names: tuple[str, ...]) -> bool:
    """Remove what is ours from a directory, and the directory if that leaves it empty; False if nothing was."""
    found = [path for name in names for path in directory.glob(name)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if found and not any(directory.iterdir()):
        directory.rmdir()
    return bool(found)
