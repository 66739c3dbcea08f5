"""What every rule of load has to say of reads five days late is owed until it is said, over a crash too."""

from __future__ import annotations

from typing import Any

import pytest
from databases import both_layouts
from loads_plant import START_US, Plant, Row, plant
from test_phase_loads import place

from meterwatch import wired_rules
from rules.profile import PHASES

pytestmark = both_layouts
DAYS_AGO = 480
"""Windows before the start: five days."""
HOT_W, LOW_W = 3000, 200
"""Wh a window: 1.4 of the 9 kVA of a transformer, and a tenth."""
ALL = [
    ("HOT_SPOT", "transformer"), ("OVERLOAD", "feeder"), ("OVERLOAD", "transformer"), ("PHASE", "transformer"),
    ("REVERSE", "transformer"), ("UNBALANCE", "transformer"),
]  # fmt: skip


def day() -> list[Row]:
    """A day far above the rating on one phase of T2, and upwards at T1, with a calm hour on both sides."""
    return [
        (meter, DAYS_AGO + back, 900, wh if 4 <= back < 100 else LOW_W // 10, False)
        for meter, wh in ((1, HOT_W), (3, 0), (5, 0), (2, -HOT_W), (4, 0))
        for back in range(104)
    ]


def told(made: Plant) -> list[tuple[Any, ...]]:
    return made.sql(
        "SELECT DISTINCT rule, asset_kind FROM alarms"
        " WHERE state <> 'RETRACTED' AND rule NOT IN ('COMM_LOSS', 'SYSTEM') ORDER BY 1, 2"
    )


async def begun(made: Plant) -> None:
    made.sql("INSERT INTO feeders (feeder_id, feeder, ampacity_a) VALUES (1, 'F1', 0.5)")
    made.sql("INSERT INTO transformer_feeders SELECT 2, 1, '2020-01-01', 'infinity'")
    place(made)
    made.profile = PHASES
    await made.start()
    await made.evaluate([made.write([(meter, 0, 900, 10, False) for meter in (1, 2, 3, 4, 5)])])


async def test_all_rules_say_what_they_owe_after_a_crash(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with plant(dsn) as made:
        await begun(made)
        with monkeypatch.context() as patch:
            patch.setattr(wired_rules.TimeShare, "goes_on", lambda share: False)
            await made.evaluate([made.write(day())])
            assert made.rules is not None
            assert made.rules.past_owed == 3, "two transformers and a feeder"
            assert not made.rules.due
        assert told(made) == []
        assert made.sql("SELECT bool_and(counted) FROM transformer_loads_owed") == [(True,)]
        await made.start()
        assert told(made) == ALL
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]
        assert made.table() == made.sums()


async def test_a_batch_owes_until_the_last_rule_has_judged_it(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of one rule's assets at a time; the batch is paid with the last of them."""
    async with plant(dsn) as made:
        await begun(made)
        pieces: list[bool] = []
        assert made.rules is not None
        assert made.desk is not None
        monkeypatch.setattr(made.rules._past, "goes_on", lambda: pieces.pop() if pieces else False)
        await made.evaluate([made.write(day())])
        owed = []
        while made.rules.past_owed:
            assert not made.rules.due
            owed.append(made.sql("SELECT count(*) FROM transformer_loads_owed")[0][0])
            pieces[:] = [False, True]
            await made.rules.record(made.desk, await made.rules.evaluate(START_US), [])
            assert len(owed) < 10
        assert owed == [1] * len(made.rules.engine.past)
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]
        assert told(made) == ALL


async def test_a_correction_of_five_days_ago_takes_back_what_every_rule_told(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wired_rules.TimeShare, "goes_on", lambda share: True)
    async with plant(dsn) as made:
        await begun(made)
        await made.evaluate([made.write(day())])
        assert told(made) == ALL
        await made.evaluate([made.write([(*row[:3], LOW_W // 10, False) for row in day()])])
        assert told(made) == []
