"""What is looked up by a list of keys costs by its keys, whatever PostgreSQL knows of the tables: a law over all calls.

On young tables the statistics say nothing, or that there is next to nothing in them. Then a list of keys joined to a
table was compared with all of it, once for each key, and a day of reads was read for a hundred of them. So every
statement of the product that names keys in a list is sent here, by the call it belongs to, to tables of up to 100,000
rows; what PostgreSQL handled is told by itself (told_plans).
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

import psycopg
import pytest
from key_lists import KeyList, key_lists
from lookups import HANDLED_MAX, LOOKUPS, QUESTIONS, asked
from told_plans import Listener, Told, tell_plans
from young_world import Statistics, fill, know

from storage.pool import new_pool

KEYS: Final = {False: (10, 200), True: (200,)}
"""How many keys, by whether people ask. With few a walk through an index shows in blocks, with many a scan in rows."""
BLOCKS_MAX: Final = 12
"""Blocks looked at for each row that may be handled: the height of an index and a row, in some indexes."""
BLOCKS_FREE: Final = 200
"""Whatever is asked: an index per chunk, and what is counted with the statement."""
SAID_ONLY: Final = ("storage/marks.py", "storage/registry_sql.py", "storage/stamps.py")
"""Files that say SQL which others send."""
LET_OFF: Final = {(Statistics.OF_ONE_ROW, "my_reads")}
"""Join of a day's reads with the meters of a reader, a condition on either of which must reach its table, so nothing
can keep the two apart. It lasts until the day's first statistics, and a reader's question is given up after 60 s."""


class Call(NamedTuple):
    """A call as it went: what may be handled, what was told; or how it failed."""

    rows: int
    told: list[Told]
    failed: Exception | None = None

    @property
    def files(self) -> frozenset[str]:
        """That sent something."""
        return frozenset().union(*(told.senders for told in self.told))


Calls = dict[tuple[Statistics, str, int], Call]


@pytest.fixture(scope="module")
def calls(dsn: str) -> Calls:
    """Every call with each of the statistics, with few and with many keys."""
    with psycopg.connect(dsn) as connection:
        if connection.info.parameter_status("is_superuser") != "on":
            pytest.skip("PostgreSQL lets only a superuser have its plans told, and statistics forgotten")
    fill(dsn)
    tell_plans(dsn)
    listener = Listener()
    found: Calls = {}
    with pytest.MonkeyPatch.context() as patch:
        listener.install(patch)
        for statistics in Statistics:
            know(dsn, statistics)
            found.update(asyncio.run(_called(dsn, statistics, listener)))
    return found


async def _called(dsn: str, statistics: Statistics, listener: Listener) -> Calls:
    found: Calls = {}
    async with new_pool(dsn) as pool:
        for name, call in LOOKUPS.items():
            for keys in () if (statistics, name) in LET_OFF else KEYS[name in QUESTIONS]:
                listener.taken()
                try:
                    rows = await call(asked(dsn, pool, keys))
                    found[statistics, name, keys] = Call(rows, listener.taken())
                except Exception as error:  # the test of that call says so, and the others have theirs
                    found[statistics, name, keys] = Call(0, [], error)
    return found


@pytest.mark.parametrize(
    ("statistics", "name"), [(s, name) for s in Statistics for name in LOOKUPS if (s, name) not in LET_OFF]
)
def test_what_is_looked_up_costs_by_its_keys(calls: Calls, statistics: Statistics, name: str) -> None:
    for keys in KEYS[name in QUESTIONS]:
        call = calls[statistics, name, keys]
        if call.failed:
            raise call.failed
        assert call.told
        rows_max, blocks_max = HANDLED_MAX * call.rows, BLOCKS_FREE + BLOCKS_MAX * call.rows
        for told in call.told:
            rows, blocks = told.worst.rows, told.blocks
            assert rows <= rows_max, f"{keys} keys: {told}"
            assert blocks <= blocks_max, f"{keys} keys: {told}"


@pytest.mark.parametrize("said", list(key_lists()), ids=lambda said: f"{said.file}:{said.line}")
def test_every_list_of_keys_that_the_product_says_is_asked_here(calls: Calls, said: KeyList) -> None:
    pattern = said.pattern
    assert any(
        pattern.search(told.text)
        for call in calls.values()
        for told in call.told
        if said.file in SAID_ONLY or said.file in call.files
    ), f"nobody sends it here; add a call of it to lookups.py:\n{said.text}"


def test_every_view_and_function_for_people_is_asked_here(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace UNION ALL"
            " SELECT proname FROM pg_proc p WHERE proretset AND pronamespace = 'public'::regnamespace AND NOT EXISTS ("
            "SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')"
        ).fetchall()
    assert {name for (name,) in rows} == set(QUESTIONS)
