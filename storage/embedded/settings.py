"""The embedded cluster's `postgresql.conf`: durability that is not negotiable, and sizes taken from the machine.

Written anew at every start. What an operator wants otherwise goes into `local.conf` beside it, which is read before
the durability settings, so that those stand.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

MiB = 2**20
GiB = 2**30

MAX_CONNECTIONS = 60  # writers, readers and the operator's psql; each idle one costs about 2 MB
SHARED_BUFFERS_BYTES_MAX = 4 * GiB  # above this the page cache serves as well and a checkpoint writes less at once
WAL_BYTES_MAX = 4 * GiB  # a checkpoint every 15 min at up to 4.5 MB/s of WAL, not one forced by size
WAL_BYTES_MIN = 256 * MiB
# One scheduler a database with the extension, and room for the databases that tests make.
TIMESCALEDB_WORKERS = 8
POSTGRES_WORKERS = TIMESCALEDB_WORKERS + 8  # and parallel queries, logical replication's launcher, TimescaleDB's


@dataclass(frozen=True, slots=True)
class Machine:
    """What sizes depend on."""

    memory_bytes: int
    disk_free_bytes: int
    cores: int


def this_machine(data_dir: Path) -> Machine:
    """Memory (a control group's limit if that is lower), free disk at `data_dir`, cores we may use."""
    memory_bytes = min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *memory_limits()])
    disk = os.statvfs(data_dir)
    return Machine(memory_bytes, disk.f_bavail * disk.f_frsize, len(os.sched_getaffinity(0)))


def memory_limits(groups: Path = Path("/sys/fs/cgroup"), ours: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that our control group and those above it may have, where there is a limit; of both versions of cgroups.

    In a container the group is mounted as if it were the topmost, whatever its path is called.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        for line in ours.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
            path = Path(group.lstrip("/"))
            for above in (path, *path.parents):
                with contextlib.suppress(OSError, ValueError):  # "max", or no such group here
                    found.append(int((top / above / name).read_text()))
    return found


def postgresql_conf(machine: Machine, data_dir: Path, socket_dir: Path, *, wal_compression: str) -> str:
    """Text of the configuration file. `wal_compression`: `lz4` if this PostgreSQL was built with it, else `pglz`."""
    wal_bytes = max(WAL_BYTES_MIN, min(WAL_BYTES_MAX, machine.disk_free_bytes // 8))
    shared_bytes = max(32 * MiB, min(SHARED_BUFFERS_BYTES_MAX, machine.memory_bytes // 4))
    settings: dict[str, str | int] = {
        # who can connect: whoever can enter the socket's directory, nobody over a network
        "listen_addresses": "",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "hba_file": str(data_dir / "pg_hba.conf"),
        "ident_file": str(data_dir / "pg_ident.conf"),
        "cluster_name": "meterwatch",
        "max_connections": MAX_CONNECTIONS,
        # TimescaleDB
        "shared_preload_libraries": "timescaledb",
        "timescaledb.telemetry_level": "off",
        "timescaledb.max_background_workers": TIMESCALEDB_WORKERS,
        "max_worker_processes": POSTGRES_WORKERS,
        "max_locks_per_transaction": 256,  # a statement may touch every chunk of a year
        # sizes
        "shared_buffers": _mib(shared_bytes),
        "effective_cache_size": _mib(machine.memory_bytes // 2),
        "maintenance_work_mem": _mib(max(16 * MiB, min(512 * MiB, machine.memory_bytes // 16))),
        "work_mem": "16MB",
        "max_parallel_workers": machine.cores,
        "max_parallel_workers_per_gather": max(1, machine.cores // 2),
        "max_wal_size": _mib(wal_bytes),
        "min_wal_size": _mib(min(512 * MiB, wal_bytes // 2)),
        "wal_buffers": "16MB",
        "wal_compression": wal_compression,
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        "random_page_cost": "1.1",
        "jit": "off",  # compiling costs more than our short queries, and LLVM is not shipped
        # time and language
        "timezone": "UTC",
        "log_timezone": "UTC",
        "datestyle": "iso, ymd",
        "lc_messages": "C",
        # log: a file a weekday, kept for a week
        "logging_collector": "on",
        "log_directory": str(data_dir / "log"),
        "log_filename": "postgresql-%a.log",
        "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": 0,
        "log_line_prefix": "%m [%p] %q%a %d ",
        "log_lock_waits": "on",
        "log_min_duration_statement": "5s",
    }
    durability: dict[str, str | int] = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "autovacuum": "on",
    }
    return "\n".join(
        [
            "# Written by meterwatch at every start; your own settings belong into local.conf.",
            *_lines(settings),
            f"include = {_quoted(str(data_dir / 'local.conf'))}",
            "# An acknowledgement means what it says only with these.",
            *_lines(durability),
            "",
        ]
    )


# Trust is no weaker than peer here: only the cluster's own user, and root, can enter the socket's directory (0700).
PG_HBA = "local all all trust\nlocal replication all trust\n"


def _lines(settings: dict[str, str | int]) -> list[str]:
    return [f"{name} = {_quoted(str(value))}" for name, value in settings.items()]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // MiB}MB"
