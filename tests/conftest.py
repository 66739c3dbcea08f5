"""A real TimescaleDB for the tests: one server per test session, one migrated database per test module."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from databases import Databases, databases, described
from hypothesis import settings

from meterwatch import watchdog
from storage.layout import Layout

settings.register_profile("no-clock", deadline=None)  # no test judges by the wall clock: machines are shared
settings.load_profile("no-clock")
watchdog.EVERY_S = 86_400.0  # type: ignore[misc]  # tests count batches; those of the watchdog send it themselves
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))  # not into what a command has printed


@pytest.fixture(scope="session")
def cluster() -> Iterator[Databases]:
    """The server that databases are made on."""
    with databases() as server:
        yield server


@pytest.fixture(scope="module")
def layout(request: pytest.FixtureRequest) -> Any:
    """How the reads of this module's database are kept; `both_layouts` runs its tests with each."""
    return getattr(request, "param", Layout.ROWSTORE)


@pytest.fixture(scope="module")
def dsn(cluster: Databases, layout: Layout) -> Iterator[str]:
    """URL of a fresh migrated database of this module's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield cluster.migrated(name, layout)
    cluster.drop_database(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of services and runs first: of two processes that share the files neither then waits long for the other."""
    items.sort(key=lambda item: not {"integration", "loadtest"}.intersection(item.path.parts))


def pytest_report_header() -> str:
    return described()
