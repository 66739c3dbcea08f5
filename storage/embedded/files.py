"""The files of one cluster: its directories, its data, its configuration, the place of its socket.

Written as the user who starts the service; what PostgreSQL's own user owns is never written by root again, so that
user cannot make root write elsewhere through a link. A killed `initdb` leaves a `pgdata.new-*`, never half a `pgdata`.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from storage.embedded import settings
from storage.embedded.account import choose, clean_environment
from storage.embedded.errors import USE_A_URL, EmbeddedError
from storage.embedded.install import PgInstall
from storage.embedded.paths import make_dir

SUPERUSER = "meterwatch"
PORT = 5432  # part of the socket's name, no TCP port
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its final NUL
_FATAL = re.compile("PANIC:|FATAL:  (?!the database system is )")  # starting up, in recovery mode: told to who connects


class ClusterFiles:
    """Directories of a cluster, made on construction; `initdb` and the configuration on request."""

    def __init__(self, data_dir: Path, install: PgInstall) -> None:
        self.data_dir = data_dir
        self.pgdata = data_dir / "pgdata"
        self._install = install
        make_dir(data_dir, 0o711 if os.geteuid() == 0 else 0o700)
        self.account = choose(self.pgdata)
        log = data_dir / "log"
        if not log.exists():
            log.mkdir(mode=0o700)
            self.account.own(log)
        self._check_reachable()

    def has_data(self) -> bool:
        return (self.pgdata / "PG_VERSION").is_file()

    def initdb(self) -> None:
        """Make the cluster: checksums on, UTF-8, bytewise order, an owner called `meterwatch`."""
        for left in self.data_dir.glob("pgdata.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        new = self.data_dir / f"pgdata.new-{os.getpid()}"  # a killed start's initdb may still write to its own
        new.mkdir(mode=0o700)
        self.account.own(new)
        options = ["--data-checksums", "--encoding=UTF8", "--locale=C", f"--username={SUPERUSER}", "--auth=trust"]
        if self._install.postgres_major >= 17:  # Unicode case rules that no libc upgrade changes; order stays by byte
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run_program("initdb", *options, f"--pgdata={new}")
        new.rename(self.pgdata)

    def check_version(self) -> None:
        """EmbeddedError if another major version of PostgreSQL made the data."""
        major = (self.pgdata / "PG_VERSION").read_text().strip()
        if major != str(self._install.postgres_major):
            raise EmbeddedError(
                f"{self.pgdata} was made by PostgreSQL {major}, and {self._install.describe()} cannot read it:"
                f" upgrade it with pg_upgrade, or set database.data_dir to an empty directory. {USE_A_URL}"
            )

    def socket_dir(self) -> Path:
        """The socket's directory, made if absent, which only PostgreSQL's user may enter."""
        path = socket_dir_of(self.data_dir)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            self.account.own(path)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.account.uid or found.st_mode & 0o077:
            raise EmbeddedError(
                f"{path} is not a private directory of user {self.account.name}: remove it. {USE_A_URL}"
            )
        return path

    def write_configuration(self, socket_dir: Path) -> None:
        machine = settings.this_machine(self.data_dir)
        compression = "lz4" if self._has_lz4() else "pglz"
        files = {
            "postgresql.conf": settings.postgresql_conf(
                machine, self.data_dir, socket_dir, wal_compression=compression
            ),
            "pg_hba.conf": settings.PG_HBA,
            "pg_ident.conf": "",
        }
        if not (self.data_dir / "local.conf").exists():
            files["local.conf"] = "# Your own settings; read before those that durability rests on.\n"
        for name, text in files.items():
            (self.data_dir / name).write_text(text)
            (self.data_dir / name).chmod(0o644)

    def explain_failure(self, startup_log: Path) -> str:
        """Why PostgreSQL did not start, in its own last words, which are of this start and not to a client."""
        early = startup_log.read_text(errors="replace")
        logs = sorted((self.data_dir / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        later = "".join(path.read_text(errors="replace").rpartition("starting PostgreSQL ")[2] for path in logs[-1:])
        for text in (early, later):  # after a failure so early the log is that of the start before
            if fatal := [line for line in text.splitlines() if _FATAL.search(line)]:
                return fatal[-1].strip()
        return last_lines(early + later)

    def _check_reachable(self) -> None:
        """The other user must be able to enter our directories and run the programs: say so now, in words."""
        if self.account.is_us:
            return
        for path, variable in (
            (self.data_dir, "database.data_dir"),
            (self._install.bin_dir, "METERWATCH_CACHE_DIR"),
        ):
            probe = ["test", "-x", str(path)]
            done = subprocess.run(probe, cwd="/", check=False, env=clean_environment(), **self.account.popen_options())
            if done.returncode != 0:
                raise EmbeddedError(
                    f"PostgreSQL runs as user {self.account.name}, who cannot enter {path}: make its parent directories"
                    f" passable (chmod a+x) or set {variable}. {USE_A_URL}"
                )

    def _has_lz4(self) -> bool:
        with contextlib.suppress(EmbeddedError):
            self._run_program("postgres", "-D", str(self.pgdata), "-C", "wal_compression", "-c", "wal_compression=lz4")
            return True
        return False

    def _run_program(self, name: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._install.program(name), *arguments],
            cwd="/",
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self.account.popen_options(),
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{name} failed: {last_lines(done.stderr or done.stdout)}. {USE_A_URL}")
        return str(done.stdout)


def socket_dir_of(data_dir: Path) -> Path:
    """Where a cluster has its socket: below its directory, or below /tmp if that makes the path too long for one."""
    path = data_dir / "run"
    if len(os.fsencode(path / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES_MAX:
        return path
    return Path(f"/tmp/meterwatch-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}")


def last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:]) or "it said nothing"
