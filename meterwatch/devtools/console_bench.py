"""What the operators' console costs with many alarms: python -m meterwatch.devtools.console_bench [--alarms 100000].

Prints, for a seeded fleet of alarms of which a tenth are folded: one change of the list, the snapshot, one refresh with
the changes that come between two (a hundred: 1,000 a second) up to the drawn screen, a refresh without any, a key, a
filter line, and stopping the display. A machine in use shows in all of them.
The console runs as it is, on textual's headless driver; no service, so the wire is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from dataclasses import replace

from meterwatch.console.app import Console
from meterwatch.console.link import Health, News
from meterwatch.console.order import Order
from meterwatch.console.rows import Row
from meterwatch.v1 import alarms_pb2 as pb

CHANGES: int = 100
ROUNDS: int = 50
SIZE: tuple[int, int] = (160, 50)
DISTRICTS: int = 50


class _Link:
    """A link whose news are given to it."""

    address = "bench"

    def __init__(self) -> None:
        self.news = News()

    def start(self) -> None: ...

    def close(self) -> None: ...

    def take(self) -> News:
        news, self.news = self.news, News()
        return news

    def shown(self, seq: int) -> None: ...

    def health(self) -> Health:
        return Health(0.0, True, 0, True, "")

    def act(self, what: pb.ActRequest, alarm_id: str, version: int) -> str:
        return ""

    def explain(self, alarm_id: str) -> pb.ExplainResponse:
        return pb.ExplainResponse()

    def kpis(self, operators: int) -> pb.GetKpisResponse:
        return pb.GetKpisResponse()


def fleet(alarms: int, dice: random.Random) -> list[Row]:
    """So many alarms; every tenth is folded into one of a hundredth."""
    rows = []
    for i in range(alarms):
        parent = f"OUT-{dice.randrange(max(alarms // 100, 1)):08}" if i % 10 == 9 else ""
        asset, district = f"LV{i // 40}.{i % 40}", f"District {i % DISTRICTS}"
        rows.append(
            Row(
                f"OUT-{i:08}", "OUTAGE", "transformer", asset, f"MV{i // 400}", district, dice.choice((1, 1, 1, 2, 3)),
                dice.choice((2, 2, 3, 4)), "SUSTAINED", 1_700_000_000_000_000 + dice.randrange(10**12), 0, 1,
                "" if parent == f"OUT-{i:08}" else parent,
                f"Transformer {asset} without supply: 12 of 40 meters reported off", "", 0, False, "",
            )
        )  # fmt: skip
    return rows


def changed(row: Row, dice: random.Random) -> Row:
    """Its next version, in another state; one in four is over."""
    return replace(row, version=row.version + 1, state=dice.choice((1, 2, 3, 4)))


def change_ms(rows: list[Row], dice: random.Random) -> float:
    """Of one change of the list alone, nothing drawn: mean of a tenth of the alarms."""
    order = Order.of(rows)
    changes = [changed(row, dice) for row in dice.sample(rows, max(len(rows) // 10, 1))]
    start = time.perf_counter()
    order.apply(changes)
    return (time.perf_counter() - start) * 1000 / len(changes)


async def measure(alarms: int, changes: int = CHANGES, rounds: int = ROUNDS) -> dict[str, float]:
    """Milliseconds of each step; of a refresh the median and the longest of the rounds."""
    dice, link = random.Random(7), _Link()
    rows = fleet(alarms, dice)
    console = Console(link, "bench")
    took = {"change_ms": change_ms(rows, dice)}
    async with console.run_test(size=SIZE) as pilot:

        async def timed(name: str, *keys: str) -> float:
            start = time.perf_counter()
            if keys:
                await pilot.press(*keys)
            else:
                console.renew()
                await pilot.pause()
            took[name] = (time.perf_counter() - start) * 1000
            return took[name]

        link.news = News(begun=True, rows=list(rows))
        await timed("snapshot_ms")
        refreshes = []
        for _ in range(rounds):
            for i in dice.sample(range(alarms), min(changes, alarms)):
                rows[i] = changed(rows[i], dice)
                link.news.rows.append(rows[i])
            link.news.changes = len(link.news.rows)
            refreshes.append(await timed("refresh_ms"))
        took["refresh_ms"], took["refresh_ms_max"] = statistics.median(refreshes), max(refreshes)
        await timed("empty_refresh_ms")
        await timed("key_ms", "down")
        await timed("end_ms", "end")
        await pilot.press("slash", *"severity=critical")
        await timed("filter_ms", "enter")
        await timed("filtered_refresh_ms")
        await pilot.press("escape")
        await timed("pause_ms", "p")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alarms", type=int, default=100_000)
    alarms = parser.parse_args().alarms
    took = asyncio.run(measure(alarms))
    print(f"{alarms} alarms, {CHANGES} changes a refresh, screen {SIZE[0]} x {SIZE[1]}")
    for name, value in took.items():
        print(f"  {name:<22} {value:8.3f}")


if __name__ == "__main__":
    main()
