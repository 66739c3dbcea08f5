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
    postmaster.pid, no process    stale; removed if its pid now belongs to somebody else, else PostgreSQL removes it
    pgdata.new                    a killed initdb; removed

Knows nothing of the schema.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

import psycopg
from psycopg import sql

from storage.embedded import processes, settings
from storage.embedded.account import Account, choose, clean_environment
from storage.embedded.errors import USE_A_URL, EmbeddedError
from storage.embedded.install import PgInstall
from storage.embedded.launch import Lifetime, Postmaster
from storage.embedded.paths import make_dir

DATABASE = "meterwatch"
SUPERUSER = "meterwatch"
PORT = 5432  # part of the socket's name, no TCP port
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its final NUL
START_TIMEOUT_S = 600  # recovery replays up to max_wal_size of WAL
FAST_STOP_TIMEOUT_S = 60
IMMEDIATE_STOP_TIMEOUT_S = 10
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
        self.data_dir = data_dir.absolute()
        self.install = install
        self.lifetime: Lifetime = lifetime
        self._extra_env = extra_env
        self._pgdata = Path(os.path.realpath(self.data_dir)) / "pgdata"
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
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(str(self._socket_dir), safe='')}&port={PORT}"

    def is_running(self) -> bool:
        """Whether the cluster has a living postmaster, started by us or not."""
        return processes.postmaster(self._pgdata) is not None

    def start(self, progress: Progress = _silent) -> None:
        """Make the cluster if absent and start it; returns when the database takes queries.

        EmbeddedError, in one sentence, if it cannot be. Nothing is left running then.
        """
        account = self._prepare()
        self._take_owner_lock()
        try:
            if self._settle_predecessor(progress):
                return
            if not (self._pgdata / "PG_VERSION").is_file():
                self._initdb(account, progress)
            self._check_version()
            self._socket_dir = self._make_socket_dir(account)
            self._write_configuration(account)
            self._spawn(account, progress)
            self.create_database(DATABASE)
        except BaseException:
            processes.kill_all(self._pgdata)
            self._release()
            raise

    def stop(self, progress: Progress = _silent) -> None:
        """Shut the cluster down (fast, then immediate, then kill), whoever started it; returns when it is gone."""
        self._shut_down(progress)
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

    def _prepare(self) -> Account:
        make_dir(self.data_dir, 0o711 if os.geteuid() == 0 else 0o700)
        account = choose(self._pgdata)
        log = self.data_dir / "log"
        if not log.exists():
            log.mkdir(mode=0o700)
            account.own(log)
        self._check_reachable(account)
        return account

    def _check_reachable(self, account: Account) -> None:
        """The other user must be able to enter our directories and run the programs: say so now, in words."""
        if account.is_us:
            return
        for path, variable in (
            (self._pgdata.parent, "METERWATCH_DATA_DIR"),
            (self.install.bin_dir, "METERWATCH_CACHE_DIR"),
        ):
            probe = ["test", "-x", str(path)]
            done = subprocess.run(probe, cwd="/", check=False, env=clean_environment(), **account.popen_options())
            if done.returncode != 0:
                raise EmbeddedError(
                    f"PostgreSQL runs as user {account.name}, who cannot enter {path}: make its parent directories"
                    f" passable (chmod a+x) or set {variable}. {USE_A_URL}"
                )

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
                f" METERWATCH_DATA_DIR to another directory. {USE_A_URL}"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._owner_lock = file

    def _release(self) -> None:
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
            self._shut_down(progress)
        stale = processes.read_pid_file(self._pgdata)
        if stale is not None and Path(f"/proc/{stale.pid}").exists():
            (self._pgdata / "postmaster.pid").unlink()  # the pid is somebody else's now, which PostgreSQL cannot know
        return False

    def _shut_down(self, progress: Progress) -> None:
        found = processes.postmaster(self._pgdata)
        if found is not None:
            processes.send(found.pid, signal.SIGINT)
            for _ in range(0, FAST_STOP_TIMEOUT_S, PROGRESS_EVERY_S):
                if processes.wait_until_none(self._pgdata, PROGRESS_EVERY_S):
                    return
                progress("Waiting for PostgreSQL to stop")
            processes.send(found.pid, signal.SIGQUIT)
        if not processes.wait_until_none(self._pgdata, IMMEDIATE_STOP_TIMEOUT_S):
            processes.kill_all(self._pgdata)

    def _initdb(self, account: Account, progress: Progress) -> None:
        progress(f"Making a database cluster in {self.data_dir}")
        new = self._pgdata.with_name("pgdata.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        account.own(new)
        options = ["--data-checksums", "--encoding=UTF8", "--locale=C", f"--username={SUPERUSER}", "--auth=trust"]
        if self.install.postgres_major >= 17:  # Unicode case rules that no libc upgrade changes; order stays by byte
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run_program(account, "initdb", *options, f"--pgdata={new}")
        new.rename(self._pgdata)

    def _run_program(self, account: Account, name: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.install.program(name), *arguments],
            cwd="/",
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **account.popen_options(),
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{name} failed: {_last_lines(done.stderr or done.stdout)}. {USE_A_URL}")
        return done.stdout

    def _check_version(self) -> None:
        major = (self._pgdata / "PG_VERSION").read_text().strip()
        if major != str(self.install.postgres_major):
            raise EmbeddedError(
                f"{self._pgdata} was made by PostgreSQL {major}, and {self.install.describe()} cannot read it:"
                f" upgrade it with pg_upgrade, or set METERWATCH_DATA_DIR to an empty directory. {USE_A_URL}"
            )

    def _make_socket_dir(self, account: Account) -> Path:
        """A directory that only PostgreSQL's user may enter, short enough for a socket's path."""
        path = self.data_dir / "run"
        if len(os.fsencode(path / f".s.PGSQL.{PORT}")) > SOCKET_PATH_BYTES_MAX:
            digest = hashlib.sha256(os.fsencode(self._pgdata)).hexdigest()[:16]
            path = Path(f"/tmp/meterwatch-{account.uid}-{digest}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            account.own(path)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or found.st_mode & 0o077:
            raise EmbeddedError(f"{path} is not a private directory of user {account.name}: remove it. {USE_A_URL}")
        return path

    def _write_configuration(self, account: Account) -> None:
        assert self._socket_dir is not None
        machine = settings.this_machine(self.data_dir)
        compression = "lz4" if self._has_lz4(account) else "pglz"
        files = {
            "postgresql.conf": settings.postgresql_conf(
                machine, self.data_dir, self._socket_dir, wal_compression=compression
            ),
            "pg_hba.conf": settings.PG_HBA,
            "pg_ident.conf": "",
        }
        if not (self.data_dir / "local.conf").exists():
            files["local.conf"] = "# Your own settings; read before those that durability rests on.\n"
        for name, text in files.items():
            (self.data_dir / name).write_text(text)
            (self.data_dir / name).chmod(0o644)

    def _has_lz4(self, account: Account) -> bool:
        with contextlib.suppress(EmbeddedError):
            self._run_program(
                account, "postgres", "-D", str(self._pgdata), "-C", "wal_compression", "-c", "wal_compression=lz4"
            )
            return True
        return False

    def _spawn(self, account: Account, progress: Progress) -> None:
        """Start the postmaster and wait until it takes connections."""
        log = self.data_dir / "startup.log"
        command = [self.install.program("postgres"), "-D", str(self._pgdata)]
        command += ["-c", f"config_file={self.data_dir / 'postgresql.conf'}"]
        self._postmaster = started = Postmaster(command, account, self.lifetime, log, self._extra_env)
        began = said = time.monotonic()
        while True:
            if started.exit_status() is not None:
                raise EmbeddedError(f"PostgreSQL did not start: {self._explain(log)}. {USE_A_URL}")
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

    def _explain(self, startup_log: Path) -> str:
        logs = sorted((self.data_dir / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        texts = [path.read_text(errors="replace") for path in (startup_log, *logs[-1:])]
        fatal = [line for text in texts for line in text.splitlines() if "FATAL:" in line or "PANIC:" in line]
        return fatal[-1].strip() if fatal else _last_lines("".join(texts))

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


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:]) or "it said nothing"
