"""Advice on a foreign PostgreSQL: each piece fires on PostgreSQL's default or worse, and never on our own database."""

from __future__ import annotations

import psycopg
import pytest

from storage.advice import ADVICE, advise, read_settings

GOOD: dict[str, tuple[str, str | None]] = {
    "shared_buffers": ("131072", "8kB"),
    "max_wal_size": ("4096", "MB"),
    "checkpoint_timeout": ("900", "s"),
    "autovacuum": ("on", None),
    "jit": ("off", None),
    "random_page_cost": ("2", None),
    "max_locks_per_transaction": ("128", None),
    "max_connections": ("30", None),
}
BAD: dict[str, tuple[str, str | None]] = {
    "shared_buffers": ("131071", "8kB"),
    "max_wal_size": ("4095", "MB"),
    "checkpoint_timeout": ("899", "s"),
    "autovacuum": ("off", None),
    "jit": ("on", None),
    "random_page_cost": ("2.1", None),
    "max_locks_per_transaction": ("127", None),
    "max_connections": ("29", None),
}


def test_every_piece_has_a_case_here() -> None:
    assert set(GOOD) == set(BAD) == {advice.setting for advice in ADVICE}


@pytest.mark.parametrize("setting", BAD)
def test_each_fires_just_beyond_its_limit_and_names_what_is_and_what_to_set(setting: str) -> None:
    assert not list(advise(GOOD))
    ((name, sentence),) = advise(GOOD | {setting: BAD[setting]})
    assert name == setting
    assert sentence.startswith(BAD[setting][0])
    assert "set it to" in sentence


def test_the_embedded_database_needs_only_what_a_small_machine_cannot_give(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        found = read_settings(connection)
    assert set(found) == set(GOOD)
    assert {name for name, _ in advise(found)} <= {"shared_buffers", "max_wal_size"}
