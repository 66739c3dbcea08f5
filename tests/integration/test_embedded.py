"""The embedded cluster against the real thing: starts, stops, and every way of being killed.

Each test has a data directory of its own directly below /tmp: as root, PostgreSQL runs as a user who cannot enter
pytest's private directories.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from storage.embedded import EmbeddedCluster, EmbeddedError, PgInstall, find_or_provision, processes
from storage.embedded.clean import clean
from storage.embedded.files import ClusterFiles

ROOT = Path(__file__).parents[2]
ENOUGH_S = 60  # a limit for a hung test, not an expectation

SERVICE = """
import sys, time
from pathlib import Path
from storage.embedded import EmbeddedCluster, find_or_provision
cluster = EmbeddedCluster(Path(sys.argv[1]), find_or_provision(str), sys.argv[2])
cluster.start()
print(cluster.dsn, flush=True)
time.sleep(600)  # until it is killed
"""


@pytest.fixture(scope="session")
def install() -> PgInstall:
    return find_or_provision(print)


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="meterwatch-test-", dir="/tmp"))
    yield path
    processes.kill_all(path / "pgdata")
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def stopped_cluster(install: PgInstall) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="meterwatch-test-", dir="/tmp"))
    with EmbeddedCluster(path, install):
        pass
    yield path
    shutil.rmtree(path)


@pytest.fixture
def data_dir(empty_dir: Path, stopped_cluster: Path) -> Path:
    """A cluster that has been made and stopped: a copy, which is quicker than making one for each test."""
    subprocess.run(["cp", "-a", stopped_cluster / "pgdata", empty_dir], check=True)
    return empty_dir


@contextlib.contextmanager
def service(data_dir: Path, lifetime: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has started the cluster and can be killed."""
    command = [sys.executable, "-c", SERVICE, str(data_dir), lifetime]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("postgresql://")
        try:
            yield process
        finally:
            process.kill()


def query(cluster: EmbeddedCluster, text: str) -> object:
    with psycopg.connect(cluster.dsn) as connection:
        row = connection.execute(text.encode()).fetchone()
    assert row is not None
    return row[0]


def put(cluster: EmbeddedCluster) -> None:
    with psycopg.connect(cluster.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")


def postmaster_pid(data_dir: Path) -> int:
    found = processes.postmaster(data_dir / "pgdata")
    assert found is not None
    return found.pid


def test_a_new_cluster_has_timescaledb_checksums_and_durable_settings(empty_dir: Path, install: PgInstall) -> None:
    with EmbeddedCluster(empty_dir, install) as cluster:
        settings = {
            name: query(cluster, f"SELECT current_setting('{name}')")
            for name in ("data_checksums", "fsync", "full_page_writes", "synchronous_commit", "TimeZone", "jit")
        }
        assert settings == {
            "data_checksums": "on",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "TimeZone": "UTC",
            "jit": "off",
        }
        version = query(cluster, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
        assert version == install.timescaledb_version
        assert str(query(cluster, "SELECT current_setting('server_version')")).startswith(install.postgres_version)
        assert (
            query(cluster, "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'meterwatch'")
            == "UTF8"
        )


def test_only_the_cluster_s_own_user_can_reach_the_socket(data_dir: Path, install: PgInstall) -> None:
    with EmbeddedCluster(data_dir, install) as cluster:
        assert query(cluster, "SELECT current_setting('listen_addresses')") == ""
        socket_dir = Path(str(query(cluster, "SELECT current_setting('unix_socket_directories')")))
        assert socket_dir.stat().st_mode & 0o777 == 0o700
        assert socket_dir.stat().st_uid == (data_dir / "pgdata").stat().st_uid != 0


def _uid_of(pid: int) -> list[int]:
    """Of whom the process is; none: it is over, as workers of the cluster may be at any time."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [Path(f"/proc/{pid}").stat().st_uid]
    return []


def _sockets_of(pid: int) -> list[str]:
    """Inodes of the sockets that it has open."""
    found: list[str] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(link)
                if target.startswith("socket:["):
                    found.append(target.removeprefix("socket:[").removesuffix("]"))
    return found


def test_no_process_of_the_cluster_runs_as_root_or_listens_on_the_network(data_dir: Path, install: PgInstall) -> None:
    with EmbeddedCluster(data_dir, install):
        pids = processes.of_cluster(data_dir / "pgdata")
        assert len(pids) > 3
        owner = (data_dir / "pgdata").stat().st_uid
        assert {uid for pid in pids for uid in _uid_of(pid)} == {owner}
        assert owner != 0
        sockets = {number for pid in pids for number in _sockets_of(pid)}
        assert sockets  # its Unix socket is among them
        of_network = {
            line.split()[9]
            for name in ("tcp", "tcp6", "udp", "udp6")
            for line in (Path("/proc/net") / name).read_text().splitlines()[1:]
        }
        assert sockets & of_network == set()


def test_local_settings_count_but_not_against_durability(data_dir: Path, install: PgInstall) -> None:
    (data_dir / "local.conf").write_text("fsync = off\nsynchronous_commit = off\nwork_mem = '7MB'\n")
    (data_dir / "local.conf").chmod(0o644)
    with EmbeddedCluster(data_dir, install) as cluster:
        assert query(cluster, "SELECT current_setting('fsync')") == "on"
        assert query(cluster, "SELECT current_setting('synchronous_commit')") == "on"
        assert query(cluster, "SELECT current_setting('work_mem')") == "7MB"


def test_a_mistake_in_local_settings_is_explained(data_dir: Path, install: PgInstall) -> None:
    (data_dir / "local.conf").write_text("work_mem = 'much'\n")
    (data_dir / "local.conf").chmod(0o644)
    with pytest.raises(EmbeddedError, match=r"PostgreSQL did not start.*local\.conf.*METERWATCH_DATABASE__URL"):
        EmbeddedCluster(data_dir, install).start()
    assert processes.of_cluster(data_dir / "pgdata") == []


def test_data_outlives_stop_and_crash_and_nothing_else_does(data_dir: Path, install: PgInstall) -> None:
    cluster = EmbeddedCluster(data_dir, install)
    cluster.start()
    put(cluster)
    cluster.stop()
    assert not cluster.is_running()
    assert processes.of_cluster(data_dir / "pgdata") == []
    cluster.start()
    assert query(cluster, "SELECT one FROM kept") == 1
    cluster.crash()
    assert processes.of_cluster(data_dir / "pgdata") == []
    with EmbeddedCluster(data_dir, install) as cluster:
        assert query(cluster, "SELECT one FROM kept") == 1


def test_a_start_while_we_run_it_already_keeps_it(data_dir: Path, install: PgInstall) -> None:
    with EmbeddedCluster(data_dir, install) as cluster:
        before = postmaster_pid(data_dir)
        cluster.start()
        assert postmaster_pid(data_dir) == before


def test_postgresql_outlives_the_thread_that_started_it(data_dir: Path, install: PgInstall) -> None:
    cluster = EmbeddedCluster(data_dir, install)
    starter = threading.Thread(target=cluster.start)
    starter.start()
    starter.join()
    assert query(cluster, "SELECT 1") == 1
    cluster.stop()


def test_kill_9_of_the_service_stops_postgresql(data_dir: Path, install: PgInstall) -> None:
    with service(data_dir, "parent") as process:
        process.kill()
        process.wait()
        assert processes.wait_until_none(data_dir / "pgdata", ENOUGH_S)


@pytest.mark.parametrize("lifetime", ["parent", "detached"])
def test_a_service_killed_and_started_at_once_finds_its_data(data_dir: Path, install: PgInstall, lifetime: str) -> None:
    with EmbeddedCluster(data_dir, install) as cluster:
        put(cluster)
    for _ in range(3):
        with service(data_dir, lifetime) as process:
            process.kill()
    with EmbeddedCluster(data_dir, install) as cluster:
        assert query(cluster, "SELECT one FROM kept") == 1


def test_an_orphan_is_adopted_by_a_detached_start(data_dir: Path, install: PgInstall) -> None:
    with service(data_dir, "detached") as process:
        process.kill()
    before = postmaster_pid(data_dir)
    with EmbeddedCluster(data_dir, install, "detached") as cluster:
        assert postmaster_pid(data_dir) == before
        assert query(cluster, "SELECT 1") == 1
    assert processes.of_cluster(data_dir / "pgdata") == []


def test_an_orphan_is_replaced_by_a_start_that_is_to_end_with_its_parent(data_dir: Path, install: PgInstall) -> None:
    with service(data_dir, "detached") as process:
        process.kill()
    before = postmaster_pid(data_dir)
    with EmbeddedCluster(data_dir, install) as cluster:
        assert postmaster_pid(data_dir) != before
        assert query(cluster, "SELECT 1") == 1


def test_a_second_service_on_the_same_data_is_refused_by_name(data_dir: Path, install: PgInstall) -> None:
    with service(data_dir, "parent") as process:
        with pytest.raises(EmbeddedError, match=f"pid {process.pid}"):
            EmbeddedCluster(data_dir, install).start()
        assert postmaster_pid(data_dir)
        with pytest.raises(EmbeddedError, match="stop it first"):
            clean(data_dir, data_dir / "no-cache", print)


def test_remains_of_a_killed_postmaster_are_cleared(data_dir: Path, install: PgInstall) -> None:
    cluster = EmbeddedCluster(data_dir, install)
    cluster.start()
    put(cluster)
    with psycopg.connect(cluster.dsn, autocommit=True) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)  # it cannot notice that its postmaster died
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        while cluster.is_running():  # a signal takes effect when the kernel gets to it
            time.sleep(processes.POLL_S)
        cluster.start()
        assert query(cluster, "SELECT one FROM kept") == 1
        assert backend not in processes.of_cluster(data_dir / "pgdata")
    cluster.stop()


def test_stale_lock_files_whose_pid_is_somebody_else_s_do_no_harm(data_dir: Path, install: PgInstall) -> None:
    cluster = EmbeddedCluster(data_dir, install)
    cluster.start()
    cluster.crash()
    lock_files = (data_dir / "pgdata" / "postmaster.pid", data_dir / "run" / ".s.PGSQL.5432.lock")
    with subprocess.Popen(["sleep", "600"]) as stranger:
        for path in lock_files:
            lines = path.read_text().splitlines()
            path.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        cluster.start()
        assert query(cluster, "SELECT 1") == 1
        cluster.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_killed_initdb_is_done_again(empty_dir: Path, install: PgInstall) -> None:
    half = empty_dir / "pgdata.new-1"
    (half / "base").mkdir(parents=True)
    (half / "PG_VERSION").write_text(f"{install.postgres_major}\n")
    with EmbeddedCluster(empty_dir, install) as cluster:
        assert query(cluster, "SELECT 1") == 1
    assert not half.exists()


def test_data_of_another_major_version_is_refused_in_one_sentence(data_dir: Path, install: PgInstall) -> None:
    (data_dir / "pgdata" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 14.*pg_upgrade"):
        EmbeddedCluster(data_dir, install).start()


def test_a_path_too_long_for_a_socket_gets_a_short_one(empty_dir: Path, install: PgInstall) -> None:
    long = empty_dir / ("d" * 100)
    empty_dir.chmod(0o711)
    with EmbeddedCluster(long, install) as cluster:
        assert query(cluster, "SELECT 1") == 1
        socket_dir = Path(str(query(cluster, "SELECT current_setting('unix_socket_directories')")))
        assert not socket_dir.is_relative_to(long)
    assert not socket_dir.exists()


def test_databases_can_be_made_and_dropped_beside_ours(data_dir: Path, install: PgInstall) -> None:
    with EmbeddedCluster(data_dir, install) as cluster:
        cluster.create_database("one of many")
        with psycopg.connect(cluster.dsn_of("one of many"), autocommit=True) as connection:
            connection.execute("CREATE TABLE reads (ts timestamptz NOT NULL)")
            connection.execute("SELECT create_hypertable('reads', 'ts')")
            cluster.drop_database("one of many")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(cluster.dsn_of("one of many"))


def test_clean_keeps_programs_that_somebody_runs(tmp_path: Path) -> None:
    cache, said = tmp_path / "cache", list[str]()
    (cache / "postgresql-17-0" / "bin").mkdir(parents=True)
    program = shutil.copy("/bin/sleep", cache / "postgresql-17-0" / "bin" / "postgres")
    running = subprocess.Popen([program, "600"])
    try:
        clean(tmp_path / "data", cache, said.append)
        assert f"process {running.pid} runs from there" in said[0]
        assert Path(program).exists()
    finally:
        running.kill()
        running.wait()
    clean(tmp_path / "data", cache, said.append)
    assert said[1].startswith("Removed the provisioned PostgreSQL")
    assert not cache.exists()


def test_clean_removes_what_is_ours_and_says_so(data_dir: Path, install: PgInstall) -> None:
    cache = data_dir / "cache"
    (cache / "postgresql-17-1").mkdir(parents=True)
    (data_dir / "somebody-elses").touch()
    with service(data_dir, "detached") as process:
        process.kill()
    said: list[str] = []
    clean(data_dir, cache, said.append)
    assert sorted(path.name for path in data_dir.iterdir()) == ["somebody-elses"]
    assert any(str(data_dir) in sentence for sentence in said)
    assert any(str(cache) in sentence for sentence in said)


def test_why_it_did_not_start_is_in_words_of_this_start_and_not_to_a_client(data_dir: Path, install: PgInstall) -> None:
    files = ClusterFiles(data_dir, install)
    early, log = data_dir / "startup.log", data_dir / "log" / "postgresql-Sat.log"
    refused = "FATAL:  the database system is in recovery mode\n"
    early.write_text("")
    log.write_text("FATAL:  old\nstarting PostgreSQL 17\nPANIC:  no room\nLOG:  aborting startup\n" + refused)
    assert files.explain_failure(early) == "PANIC:  no room"
    early.write_text("FATAL:  could not write lock file: Input/output error\nLOG:  database system is shut down\n")
    assert files.explain_failure(early) == "FATAL:  could not write lock file: Input/output error"
