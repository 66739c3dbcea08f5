"""The service under test: one of its own with a simulated clock, or one that runs already.

Promises: the fleet is in its registry before anything is sent; start_us, the service's time at which the plan begins,
is the same for the same order when the service is its own. Refuses to end a service it did not start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import psycopg

from loadtest.database import Database
from loadtest.local import LocalService
from loadtest.plan import Plan
from loadtest.scenarios import Knobs
from loadtest.world import INTERVAL_US, REGISTRY_ROWS_MAX, US, World
from meterwatch.client.registry import RegistryFile, import_registry
from meterwatch.client.retry import open_channel
from meterwatch.client.work import plan_work
from meterwatch.quality import METHOD_MASK
from meterwatch.v1 import alarms_pb2, alarms_pb2_grpc
from meterwatch.v1.registry_pb2 import PlannedWork

VALID_FROM_US: Final = 1_577_836_800_000_000
DAY_US: Final = 86_400 * US
PROBE_TIMEOUT_S: Final = 30.0
PROBE_APART_S: Final = 4.0
SPEED_TOLERANCE: Final = 0.02


class Target:
    """A service with the fleet in its registry. open() it, then close it."""

    kind = "remote"
    reopens = False
    service_pid: int | None = None
    postmaster_pid: int | None = None

    def __init__(self, address: str, mode: str, start_us: int, epoch: int) -> None:
        self.address, self.mode, self.start_us, self.epoch = address, mode, start_us, epoch

    @property
    def standing(self) -> bool:
        """True if the plan need not wait for its clock: it is moved by the reads, or they are of its past."""
        return self.mode in ("replay", "past")

    def open(self, patience: float) -> None:
        """Have it ready to be connected to, its clock some seconds before start_us; more of them if tried again."""

    def stored(self, _first_us: int, _last_us: int) -> int | None:
        """Reads the database counts with an interval end from one time to before the other; None: cannot know."""
        return None

    def versions(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Leave it."""


class _Local(Target):
    kind = "local"

    def __init__(self, service: LocalService, world: World, knobs: Knobs, start_us: int) -> None:
        mode = "simulated" if knobs.paced else "past"  # nobody is silent while everything comes at once
        super().__init__(service.address, mode, start_us, 1)
        self.reopens = knobs.paced
        self._service, self._speed = service, knobs.speed
        self._after_us = start_us + knobs.intervals * INTERVAL_US
        self._lead_s = 5 + world.meters / 50_000
        self._look()

    def open(self, patience: float) -> None:
        if self.mode == "simulated":
            self._service.stop()
            self._service.start(
                self.start_us - int(self._lead_s * patience * self._speed * US), "simulated", self._speed
            )
        else:
            self._service.stop()
            self._service.start(self._after_us, "simulated")
        self._look()

    def _look(self) -> None:
        self.address, self.service_pid = self._service.address, self._service.pid
        database = Database(self._service.dsn)
        self._versions = database.versions()
        self.postmaster_pid = database.postmaster()
        database.close()

    def stored(self, first_us: int, last_us: int) -> int | None:
        first, last = (datetime.fromtimestamp(at / US, UTC) for at in (first_us, last_us))
        with psycopg.connect(self._service.dsn) as connection:
            row = connection.execute(
                f"SELECT count(*) FROM reads WHERE end_at >= %s AND end_at < %s AND quality & {METHOD_MASK} = 0",
                (first, last),
            ).fetchone()
        return int(row[0]) if row else 0

    def versions(self) -> dict[str, str]:
        return self._versions

    def close(self) -> None:
        self._service.close()


def local(world: World, knobs: Knobs, start_us: int, database: str | None, say: Callable[[str], None]) -> Target:
    """Bring up a service of its own. database None: an embedded one, gone afterwards."""
    service = LocalService(start_us - DAY_US, database)
    try:
        register(world, service.address, say)
        return _Local(service, world, knobs, start_us)
    except BaseException:
        service.close()
        raise


def remote(world: World, knobs: Knobs, address: str, say: Callable[[str], None], lead_s: float = 0.0) -> Target:
    """Prepare a running service. ValueError if its clock is not what the knobs say."""
    register(world, address, say)
    epoch = time.time_ns() // 1000
    first_s, first_us = probe(address)
    time.sleep(PROBE_APART_S)
    again_s, again_us = probe(address)
    if first_us == again_us:
        return Target(address, "replay", -(-first_us // INTERVAL_US) * INTERVAL_US, epoch)
    speed = (again_us - first_us) / US / (again_s - first_s)
    if abs(speed / knobs.speed - 1) > SPEED_TOLERANCE:
        raise ValueError(
            f"the clock of {address} runs at about {speed:.1f} times the machine's, the plan at {knobs.speed:g}; "
            f"give --speed {_round(speed):g}"
        )
    lead_s = lead_s or 10 + world.meters * min(knobs.intervals, 100) / 400_000
    after_us = again_us + int(lead_s * knobs.speed * US)
    start_us = -(-after_us // INTERVAL_US) * INTERVAL_US
    wait_s = (start_us - again_us) / US / knobs.speed
    say(f"the plan begins at a quarter-hour of the service's clock, in {wait_s:.0f} s")
    return Target(address, "running", start_us, epoch)


def register(world: World, address: str, say: Callable[[str], None]) -> None:
    """Import the fleet's registry. RuntimeError with the first error."""
    began_s = time.monotonic()
    meters = 0
    for number, (kind, content) in enumerate(world.registry()):
        file = RegistryFile(kind, f"{kind}-{number}.csv", content)
        answer = import_registry(address, [file], VALID_FROM_US)
        if answer.error:
            error = answer.error[0]
            raise RuntimeError(f"the registry was refused: {error.file}:{error.line}: {error.message}")
        meters += content.count(b"\n") - 1 if kind == "meters" else 0
        if 0 < meters < world.meters and world.meters > REGISTRY_ROWS_MAX:
            say(f"{meters:,} of {world.meters:,} meters registered after {time.monotonic() - began_s:.0f} s")
    say(f"{world.meters:,} meters registered at {address} in {time.monotonic() - began_s:.1f} s")


def announce(plan: Plan, address: str) -> None:
    """Tell the service of the planned work of a run."""
    works = [
        PlannedWork(
            work_id=f"LT-{plan.start_us}-{number}",
            asset_kind=one.asset_kind,
            asset=one.asset,
            from_us=one.onset_us,
            to_us=one.end_us or one.onset_us,
            reason="load test",
            planned_by="loadtest",
        )
        for number, one in enumerate(plan.trouble.planned)
    ]
    plan_work(address, works)


def _round(speed: float) -> float:
    """The speed somebody is likely to have set, as the measured one is a little off."""
    few, more = float(f"{speed:.2g}"), float(f"{speed:.3g}")
    return few if abs(few / speed - 1) < 0.005 else more


def probe(address: str) -> tuple[float, int]:
    """The service's clock, UTC microseconds, and time.monotonic() of it. Asked as a subscriber: a head-end that came
    and went would be missed."""
    channel = open_channel(address)
    try:
        stub: Any = alarms_pb2_grpc.AlarmsStub(channel)
        for message in stub.Subscribe(alarms_pb2.SubscribeRequest(), timeout=PROBE_TIMEOUT_S):
            if message.HasField("bookmark"):
                return time.monotonic(), int(message.bookmark.now_us)
    except grpc.RpcError as error:
        raise RuntimeError(f"{address} does not answer: {error.details()}") from None
    finally:
        channel.close()
    raise RuntimeError(f"{address} closed the feed of alarms without a bookmark")
