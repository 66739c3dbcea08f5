"""A database copied from a migrated one is as good as one that was migrated itself."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from databases import Databases, compresses

from storage.layout import Layout
from storage.migrate import migrate, migrations

NAMES = ("copied_1", "copied_2")


def asked(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize("layout", Layout)
def test_copies_are_migrated_and_have_nothing_in_common(cluster: Databases, layout: Layout) -> None:
    try:
        one, other = (cluster.migrated(name, layout) for name in NAMES)
        assert migrate(one) == migrations()[-1][0]
        assert asked(one, "SELECT layout FROM reads_layout") == [(layout,)]
        assert asked(one, "SELECT log_id FROM service_identity") != asked(other, "SELECT log_id FROM service_identity")
        asked(one, "INSERT INTO head_ends (head_end, time_zone) VALUES ('H', 'UTC') RETURNING 1")
        assert asked(other, "SELECT count(*) FROM head_ends") == [(0,)]
        assert compresses(one) == compresses(other)
    finally:
        for name in NAMES:
            cluster.drop_database(name)
