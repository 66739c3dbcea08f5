"""One private PostgreSQL cluster on a data directory: made if absent, started, stopped, found again after a crash.

    data_dir/               ours; nothing below is written by us once PostgreSQL's user owns it
      owner.lock            held while a process uses this cluster: never two
      postgresql.conf, pg_hba.conf, local.conf (the operator's, optional), startup.log
      pgdata/  log/  run/   PostgreSQL's; run/ holds the socket and only PostgreSQL's user may enter it

What a start finds, and what it does:

    owner.lock held               another service lives on this directory: refuse, name its pid
    a postmaster, stopping        wait until it has stopped, then start
    a postmaster, running         an orphan. `parent`: stop it and start our own, which will stop with us;
                                  `detached`: adopt it
    processes, no postmaster      remains of a killed one: wait for them, then kill them
    lock files, no process        stale; removed if their pid is somebody else's now, else PostgreSQL removes them
    pgdata.new-*                  a killed initdb; removed

Knows nothing of the schema.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

import psycopg
from psycopg import sql

from storage.embedded import processes
from storage.embedded.errors import USE_A_URL, EmbeddedError
from storage.embedded.files import PORT, SUPERUSER, ClusterFiles, socket_dir_of
from storage.embedded.install import PgInstall
from storage.embedded.launch import Lifetime, Postmaster

DATABASE = "meterwatch"
START_TIMEOUT_S = 600  # recovery replays up to max_wal_size of WAL
PROGRESS_EVERY_S = 5

Progress = Callable[[str], None]


def _silent(_sentence: str) -> None:
    pass


class EmbeddedCluster:
    """A PostgreSQL + TimescaleDB cluster of our own, reachable by `dsn` while started.

    `start` may be called from any thread, and again after `stop`, `crash`, or the death of PostgreSQL.
    """

    def __init__(
        self,
        data_dir: Path,
        install: PgInstall,
        lifetime: Lifetime = "parent",
        *,
        extra_env: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = Path(os.path.realpath(data_dir))
        self.install = install
        self.lifetime: Lifetime = lifetime
        self._extra_env = extra_env
        self._pgdata = self.data_dir / "pgdata"
        self._owner_lock: IO[str] | None = None
        self._postmaster: Postmaster | None = None
        self._socket_dir: Path | None = None

    @property
    def dsn(self) -> str:
        """URL of the database, through the Unix socket. RuntimeError before `start`."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """URL of another database of this cluster."""
        if self._socket_dir is None:
            raise RuntimeError("the cluster has not been started")
        return _url(database, str(self._socket_dir))

    @property
    def places(self) -> tuple[Path, Path]:
        """Where the data is and where the WAL is, which an operator may have put on a disk of its own."""
        return self._pgdata, self._pgdata / "pg_wal"

    def running_dsn(self) -> str | None:
        """URL of the database if a postmaster lives on the directory, whoever started it; None if none does."""
        found = processes.postmaster(self._pgdata)
        return None if found is None else _url(DATABASE, found.socket_dir)

    def is_running(self) -> bool:
        """Whether the cluster has a living postmaster, started by us or not."""
        return processes.postmaster(self._pgdata) is not None

    def start(self, progress: Progress = _silent) -> None:
        """Make the cluster if absent and start it; returns when the database takes queries.

        Does nothing if this object has it running. EmbeddedError, in one sentence, if it cannot be started; nothing
        is left running then.
        """
        if self._owner_lock is not None and self.is_running():
            return
        files = ClusterFiles(self.data_dir, self.install)
        self._take_owner_lock()
        try:
            if self._settle_predecessor(progress):
                return
            if not files.has_data():
                progress(f"Making a database cluster in {self.data_dir}")
                files.initdb()
            files.check_version()
            self._socket_dir = files.socket_dir()
            files.write_configuration(self._socket_dir)
            self._spawn(files, progress)
            self.create_database(DATABASE)
        except BaseException:
            processes.kill_all(self._pgdata)
            self._release()
            raise

    def stop(self, progress: Progress = _silent) -> None:
        """Shut the cluster down (fast, then immediate, then kill), whoever started it; returns when it is gone."""
        processes.shut_down(self._pgdata, progress)
        self._release()

    def crash(self) -> None:
        """kill -9 all its processes. For tests."""
        processes.kill_all(self._pgdata)
        self._release()

    def __enter__(self) -> "EmbeddedCluster":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _take_owner_lock(self) -> None:
        if self._owner_lock is not None:
            return
        file = (self.data_dir / "owner.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise EmbeddedError(
                f"Another meterwatch (pid {holder}) uses the embedded database in {self.data_dir}: stop it, or set"
                f" database.data_dir to another directory. {USE_A_URL}"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._owner_lock = file

    def _release(self) -> None:
        if self._socket_dir is not None and not self._socket_dir.is_relative_to(self.data_dir):
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._postmaster = None
        self._socket_dir = None
        if self._owner_lock is not None:
            self._owner_lock.close()
            self._owner_lock = None

    def _settle_predecessor(self, progress: Progress) -> bool:
        """Deal with what lives on the data directory; True if it was adopted and is ready."""
        found = processes.postmaster(self._pgdata)
        if found is not None and found.status == "ready" and self.lifetime == "detached":
            self._socket_dir = Path(found.socket_dir)
            with contextlib.suppress(psycopg.OperationalError):  # it was on its way down after all
                self.create_database(DATABASE)
                progress(f"Using the PostgreSQL that already runs on {self.data_dir} (pid {found.pid})")
                return True
        if found is not None or processes.of_cluster(self._pgdata):
            progress(f"Stopping the PostgreSQL that an earlier run left on {self.data_dir}")
            processes.shut_down(self._pgdata, progress)
        self._remove_stale_locks()
        return False

    def _remove_stale_locks(self) -> None:
        """Lock files whose pid exists again, as a zombie's or somebody else's: PostgreSQL would take it for alive.

        Called when no process of the cluster is left, which PostgreSQL itself cannot find out.
        """
        for path in (self._pgdata / "postmaster.pid", socket_dir_of(self.data_dir) / f".s.PGSQL.{PORT}.lock"):
            with contextlib.suppress(FileNotFoundError):
                pid = path.read_text().partition("\n")[0].strip()
                if not pid.isdigit() or Path(f"/proc/{pid}").exists():
                    path.unlink()

    def _spawn(self, files: ClusterFiles, progress: Progress) -> None:
        """Start the postmaster and wait until it takes connections."""
        log = self.data_dir / "startup.log"
        command = [self.install.program("postgres"), "-D", str(self._pgdata)]
        command += ["-c", f"config_file={self.data_dir / 'postgresql.conf'}"]
        self._postmaster = started = Postmaster(command, files.account, self.lifetime, log, self._extra_env)
        began = said = time.monotonic()
        while True:
            if started.exit_status() is not None:
                raise EmbeddedError(f"PostgreSQL did not start: {files.explain_failure(log)}. {USE_A_URL}")
            file = processes.read_pid_file(self._pgdata)
            if file is not None and file.pid == started.pid and file.status == "ready":
                return
            now = time.monotonic()
            if now - began > START_TIMEOUT_S:
                raise EmbeddedError(f"PostgreSQL was not ready after {START_TIMEOUT_S} s: see {self.data_dir / 'log'}.")
            if now - said > PROGRESS_EVERY_S:
                progress(f"Waiting for PostgreSQL to recover ({now - began:.0f} s)")
                said = now
            time.sleep(processes.POLL_S)

    def create_database(self, name: str) -> None:
        """Create a database with the extension if it is absent; completes one that was left half made."""
        with psycopg.connect(self.dsn_of("postgres"), autocommit=True, connect_timeout=30) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(self.dsn_of(name), autocommit=True, connect_timeout=30) as connection:
            connection.execute("SET client_min_messages = error")  # a banner
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            # The Apache edition comes with a job that it then refuses to run, once an hour, with an error in the log.
            connection.execute(
                "UPDATE _timescaledb_config.bgw_job SET scheduled = false"
                " WHERE id < 1000 AND scheduled AND current_setting('timescaledb.license') = 'apache'"
            )

    def drop_database(self, name: str) -> None:
        """Drop a database, with whoever is still connected to it."""
        with psycopg.connect(self.dsn_of("postgres"), autocommit=True, connect_timeout=30) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _url(database: str, socket_dir: str) -> str:
    return f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(socket_dir, safe='')}&port={PORT}"
