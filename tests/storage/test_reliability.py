"""The SQL function of the indices against a scalar oracle, on a real database."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

BERLIN = ZoneInfo("Europe/Berlin")
SUSTAINED = timedelta(seconds=300)
FIRST, UNTIL = date(2026, 3, 1), date(2026, 5, 1)
"""With the short day, 29 March."""
AS_OF = datetime(2026, 4, 20, 10, 0, tzinfo=UTC)
EVER = datetime(9999, 1, 1, tzinfo=UTC)
EMPTY = """
TRUNCATE interruptions, interruptions_owed, meter_links, meter_transformers, transformer_feeders, meters, concentrators,
  transformers, feeders, head_ends;
INSERT INTO head_ends (head_end, time_zone) VALUES ('H', 'Europe/Berlin'), ('I', 'Europe/Berlin'), ('U', 'UTC');
INSERT INTO feeders (feeder_id, feeder) VALUES (0, 'F0'), (1, 'F1');
INSERT INTO transformers (transformer_id, transformer, rated_kva, district) VALUES
  (0, 'T0', 9, 'North'), (1, 'T1', 9, 'South'), (2, 'T2', 9, 'South');
"""
DISTRICT = {0: "North", 1: "South", 2: "South"}


@dataclass(frozen=True)
class Span:
    """Something that holds from..to, exclusive."""

    key: int
    value: int
    from_at: datetime
    to_at: datetime = EVER


@dataclass
class Grid:
    """A registry and interruptions, as plain lists."""

    meters: list[Span]
    """slot, unused, installed..retired"""
    members: list[Span]
    """slot, transformer"""
    hangs: list[Span]
    """transformer, feeder"""
    interruptions: list[tuple[int, datetime, datetime | None]]

    def store(self, dsn: str) -> None:
        with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute(EMPTY)
            cursor.executemany(
                "INSERT INTO meters (slot, meter, installed_at, retired_at) VALUES (%s, %s, %s, %s)",
                [(m.key, f"M{m.key}", m.from_at, _stored(m.to_at)) for m in self.meters],
            )
            for table, spans in (("meter_transformers", self.members), ("transformer_feeders", self.hangs)):
                cursor.executemany(
                    f"INSERT INTO {table} VALUES (%s, %s, %s, %s)".encode(),
                    [(s.key, s.value, s.from_at, _stored(s.to_at)) for s in spans],
                )
            cursor.executemany("INSERT INTO interruptions VALUES (%s, %s, %s)", self.interruptions)

    def of_customers(self) -> list[tuple[int, datetime, datetime | None]]:
        service = {m.key: (m.from_at, m.to_at) for m in self.meters}
        return [(s, a, b) for s, a, b in self.interruptions if service[s][0] <= a < service[s][1]]

    def places(self, by: str) -> dict[str, list[tuple[int, datetime, datetime]]]:
        """Place -> (slot, from, to) of the customers it served."""
        out: dict[str, list[tuple[int, datetime, datetime]]] = defaultdict(list)
        for meter in self.meters:
            if by == "all":
                out[""].append((meter.key, meter.from_at, meter.to_at))
            for member in (m for m in self.members if m.key == meter.key and by != "all"):
                spans = [Span(0, 0, datetime.min.replace(tzinfo=UTC))]
                names = {0: DISTRICT[member.value]}
                if by == "feeder":
                    spans = [s for s in self.hangs if s.key == member.value]
                    names = {s.value: f"F{s.value}" for s in spans}
                for span in spans:
                    from_at = max(meter.from_at, member.from_at, span.from_at)
                    to_at = min(meter.to_at, member.to_at, span.to_at)
                    if from_at < to_at:
                        out[names[span.value]].append((meter.key, from_at, to_at))
        return out


def _stored(at: datetime) -> Any:
    return "infinity" if at == EVER else at


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=BERLIN).astimezone(UTC)


def periods(per: str) -> Iterator[tuple[date, datetime, datetime]]:
    day = FIRST
    while day < UNTIL:
        after = day + timedelta(days=1) if per == "day" else (day + timedelta(days=32)).replace(day=1)
        if midnight(day) < AS_OF:
            yield day, midnight(day), min(midnight(after), AS_OF)
        day = after


def oracle(grid: Grid, by: str, per: str) -> dict[tuple[str, date], tuple[float, int, float, int]]:
    """Customers, sustained interruptions, their minutes, momentary events: meter by meter."""
    found = {}
    for place, served in grid.places(by).items():
        for day, start, end in periods(per):
            length = (end - start).total_seconds()
            customers = sum(max((min(b, end) - max(a, start)).total_seconds(), 0) for _, a, b in served) / length
            if customers == 0:
                continue
            count, minutes, momentary = 0, 0.0, 0
            for slot in {s for s, _, _ in served}:
                mine = sorted((a, b) for s, a, b in grid.interruptions if s == slot and a < AS_OF)
                for event in events(mine):
                    here = [
                        (a, b) for a, b in event
                        if start <= a < end and any(s == slot and f <= a < t for s, f, t in served)
                    ]  # fmt: skip
                    longer = [(a, b) for a, b in here if length_of(a, b) > SUSTAINED]
                    count += len(longer)
                    minutes += sum(length_of(a, b).total_seconds() / 60 for a, b in longer)
                    over = all(b is not None and b <= AS_OF and b - a <= SUSTAINED for a, b in event)
                    momentary += bool(over and here and here[0] == event[0])
            found[place, day] = (customers, count, minutes, momentary)
    return found


def length_of(from_at: datetime, to_at: datetime | None) -> timedelta:
    return min(to_at or AS_OF, AS_OF) - from_at


def events(mine: list[tuple[datetime, datetime | None]]) -> list[list[tuple[datetime, datetime | None]]]:
    """What begins within SUSTAINED of the first of them is one event."""
    out: list[list[tuple[datetime, datetime | None]]] = []
    for one in mine:
        if out and one[0] <= out[-1][0][0] + SUSTAINED:
            out[-1].append(one)
        else:
            out.append([one])
    return out


def grid(seed: int) -> Grid:
    """Meters that come, go and move; feeders that change; interruptions that follow closely or cross midnights."""
    rng = random.Random(seed)
    begin = datetime(2020, 1, 1, tzinfo=UTC)

    def moment() -> datetime:
        return datetime(2026, 2, 25, tzinfo=UTC) + timedelta(seconds=rng.randrange(60 * 86_400))

    meters, members = [], []
    for slot in range(12):
        came = begin if rng.random() < 0.7 else moment()
        went = EVER if rng.random() < 0.8 else max(moment(), came + timedelta(days=1))
        meters.append(Span(slot, 0, came, went))
        moved = max(moment(), begin)
        first, second = rng.sample(range(3), 2)
        if rng.random() < 0.3:
            members += [Span(slot, first, begin, moved), Span(slot, second, moved)]
        elif rng.random() < 0.9:
            members.append(Span(slot, first, begin))
    switched = moment()
    hangs = [Span(0, 0, begin, switched), Span(0, 1, switched), Span(1, 1, begin)]
    interruptions: dict[tuple[int, datetime], datetime | None] = {}
    for slot in range(12):
        at = datetime(2026, 2, 27, tzinfo=UTC)
        while at < AS_OF + timedelta(days=1):
            at += timedelta(seconds=rng.choice((60, 120, 300, 301, 3_600, 86_400, 400_000)))
            lasts = timedelta(seconds=rng.choice((0, 30, 299, 300, 301, 7_200, 90_000)))
            interruptions[slot, at] = at + lasts
            at += lasts
        interruptions[slot, at] = None if rng.random() < 0.5 else at + timedelta(hours=1)
    interruptions[0, AS_OF - timedelta(seconds=200)] = None
    return Grid(meters, members, hangs, [(slot, a, b) for (slot, a), b in sorted(interruptions.items())])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per", ["day", "month"])
@pytest.mark.parametrize("by", ["feeder", "district", "all"])
def test_the_indices_are_those_counted_customer_by_customer(dsn: str, by: str, per: str, seed: int) -> None:
    world = grid(seed)
    world.store(dsn)
    expected = oracle(world, by, per)
    found = indices(dsn, by, per)
    assert set(found) == {(place, day, planned) for place, day in expected for planned in (False, True)}
    assert sum(count for _, count, _, _ in expected.values()) > 20
    assert sum(momentary for *_, momentary in expected.values()) > 20
    for (place, day), (customers, count, minutes, momentary) in expected.items():
        row = found[place, day, False]
        assert row["interruptions"] == count, (place, day)
        assert row["momentary_events"] == momentary, (place, day)
        assert row["customers"] == pytest.approx(customers, rel=1e-9)
        assert row["saifi"] == pytest.approx(count / customers, rel=1e-9)
        assert row["saidi_min"] == pytest.approx(minutes / customers, rel=1e-9)
        assert row["caidi_min"] == (pytest.approx(minutes / count, rel=1e-9) if count else None)
        assert row["maifi_e"] == pytest.approx(momentary / customers, rel=1e-9)


def indices(dsn: str, by: str, per: str) -> dict[tuple[str, date, bool], dict[str, Any]]:
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        rows = connection.execute(
            "SELECT * FROM reliability_indices(%s, %s, %s, %s, %s)", (by, per, FIRST, UNTIL, AS_OF)
        ).fetchall()
    return {(row["place"], row["period"], row["planned"]): row for row in rows}


def test_planned_interruptions_are_counted_apart(dsn: str) -> None:
    grid(0).store(dsn)
    before = indices(dsn, "feeder", "month")
    with psycopg.connect(dsn) as connection:
        work = "('W', 'feeder', 1, '-infinity', 'infinity', 'new cable', 'Kim', now())"
        connection.execute(
            "INSERT INTO planned_works (work_id, asset_kind, asset_id, from_at, to_at, reason, planned_by, recorded_at)"
            f" VALUES {work}"
        )
    after = indices(dsn, "feeder", "month")
    for (place, period, planned), row in after.items():
        moved = planned == (place == "F1")
        assert row["saidi_min"] == (before[place, period, False]["saidi_min"] if moved else 0)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE planned_works SET cancelled_at = now()")
    assert indices(dsn, "feeder", "month") == before
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE planned_works")


def test_the_views_answer(dsn: str) -> None:
    grid(1).store(dsn)
    with psycopg.connect(dsn) as connection:
        for view in ("customer_interruptions", "reliability_by_month"):
            assert connection.execute(f"SELECT * FROM {view} LIMIT 1".encode()).fetchall() is not None
        assert connection.execute("SELECT regional_time_zone()").fetchone() == ("Europe/Berlin",)
