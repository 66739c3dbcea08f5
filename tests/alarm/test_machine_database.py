"""The machine of test_machine over the tables of a real database: each call goes to the store in memory and to the real
one, and both must answer the same. So what the machine proves of the store in memory holds for the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import psycopg_pool
import pytest
from alarm_cases import SinkStore
from hypothesis import HealthCheck, settings
from routes_world import SinkOutbox
from test_machine import Machine, _small_limits

from meterwatch.alarms import Alarm, Draft, Transition
from meterwatch.notices import Changes, DeliveryState, Kept, Parcel
from storage.alarms import AlarmStore
from storage.outbox import Outbox

__all__ = ["_small_limits"]
TABLES = (
    "alarms, alarm_log, alarm_actions, alarm_pages, asset_shelves, route_cursor, route_claims, notices, deliveries, "
    "delivery_alarms"
)


def _sorted(found: Sequence[Any]) -> list[Any]:
    return sorted(found, key=repr)


class BothStores(SinkStore):
    """Alarms in memory and in the database."""

    def __init__(self, real: AlarmStore) -> None:
        super().__init__()
        self.real = real

    async def commit(self, drafts: list[Draft], batch_ids: Any, **options: Any) -> list[int]:
        there = [] if self.fail is not None and not self.fail_after else await self.real.commit(drafts, (), **options)
        here = await super().commit(drafts, batch_ids, **options)
        assert here == there
        return here

    async def log_after(self, seq: int, limit: int) -> list[Transition]:
        here = await super().log_after(seq, limit)
        assert await self.real.log_after(seq, limit) == here
        return here

    async def newest_seq(self) -> int:
        here = await super().newest_seq()
        assert await self.real.newest_seq() == here
        return here

    async def load_open_and_recent(self, since_us: int) -> list[Alarm]:
        here = await super().load_open_and_recent(since_us)
        assert _sorted(await self.real.load_open_and_recent(since_us)) == _sorted(here)
        return here

    async def load_shelves(self, now_us: int) -> list[Any]:
        here = await super().load_shelves(now_us)
        assert _sorted(await self.real.load_shelves(now_us)) == _sorted(here)
        return here

    async def find_shelf(self, action_id: str) -> Any:
        here = await super().find_shelf(action_id)
        assert await self.real.find_shelf(action_id) == here
        return here

    async def get_many(self, alarm_ids: Any) -> list[Alarm]:
        here = await super().get_many(alarm_ids)
        assert _sorted(await self.real.get_many(alarm_ids)) == _sorted(here)
        return here

    async def within(self, verdicts: Any) -> list[Alarm]:
        here = await super().within(verdicts)
        assert _sorted(await self.real.within(verdicts)) == _sorted(here)
        return here

    async def find_actions(self, action_id: str) -> list[Any]:
        here = await super().find_actions(action_id)
        assert _sorted(await self.real.find_actions(action_id)) == _sorted(here)
        return here


class BothOutboxes(SinkOutbox):
    """What the routes keep, in memory and in the database."""

    def __init__(self, log: Sequence[Transition], real: Outbox) -> None:
        super().__init__(log)
        self.real = real

    async def load(self, made_since_us: int) -> Kept:
        here, there = await super().load(made_since_us), await self.real.load(made_since_us)
        assert (here.cursor, here.next_number, here.waiting) == (there.cursor, there.next_number, there.waiting)
        assert _sorted(here.notices) == _sorted(there.notices)
        assert _sorted(here.claims) == _sorted(there.claims)
        assert {target: sorted(made) for target, made in here.made_us.items()} == there.made_us
        return here

    async def commit(self, changes: Changes, queued_us: int) -> None:
        if self.fail is None or self.fail_after:
            await self.real.commit(changes, queued_us)
        await super().commit(changes, queued_us)

    async def next_parcel(self, target: str) -> Parcel | None:
        here = await super().next_parcel(target)
        assert await self.real.next_parcel(target) == here
        return here

    async def tried(
        self, number: int, state: DeliveryState, tried_us: int, ended_us: int, next_try_us: int, error: str
    ) -> None:
        await self.real.tried(number, state, tried_us, ended_us, next_try_us, error)
        await super().tried(number, state, tried_us, ended_us, next_try_us, error)


class DatabaseMachine(Machine):
    """See the head of this file."""

    dsn = ""

    def make_stores(self) -> tuple[SinkStore, SinkOutbox]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {TABLES}".encode())
            connection.execute("UPDATE alarm_cursor SET seq = 0")
        self.pool = psycopg_pool.AsyncConnectionPool[Any](self.dsn, min_size=1, max_size=2, open=False)
        self.run(self.pool.open(wait=True))
        store = BothStores(AlarmStore(self.pool))
        return store, BothOutboxes(store.log, Outbox(self.pool))

    def at_the_end(self) -> None:
        try:
            super().at_the_end()
        finally:
            self.run(self.pool.close())


@pytest.fixture
def _database(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatabaseMachine, "dsn", dsn)


@pytest.mark.usefixtures("_small_limits", "_database")
class TestDatabaseMachine(DatabaseMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=5, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow], deadline=None
    )
