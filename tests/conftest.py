"""A real TimescaleDB for the tests: one private cluster per test session, one migrated database per test module."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from storage.embedded import EmbeddedCluster, find_or_provision
from storage.migrate import migrate

settings.register_profile("no-clock", deadline=None)  # no test judges by the wall clock: machines are shared
settings.load_profile("no-clock")


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedCluster]:
    """A running embedded cluster; directly below /tmp, because as root PostgreSQL runs as another user."""
    path = Path(tempfile.mkdtemp(prefix="meterwatch-test-", dir="/tmp"))
    with EmbeddedCluster(path, find_or_provision(print)) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def dsn(cluster: EmbeddedCluster) -> Iterator[str]:
    """URL of a fresh migrated database of this module's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    cluster.create_database(name)
    url = cluster.dsn_of(name)
    migrate(url)
    yield url
    cluster.drop_database(name)


def pytest_report_header() -> str:
    install = find_or_provision(lambda _: None)
    return f"PostgreSQL {install.postgres_version}, TimescaleDB {install.timescaledb_version} ({install.origin})"
