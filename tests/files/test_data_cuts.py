"""The data that ships: the grid is consistent, the oddities are there, the demo starts without an overload."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from meterwatch import data

POWER_FACTOR = 0.95


def table(name: str) -> list[dict[str, str]]:
    with (data.GRID / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_grid_has_its_size_and_every_reference_resolves() -> None:
    meters, transformers = table("meters"), table("transformers")
    assert (len(meters), len(transformers), len(table("feeders"))) == (1203, 35, 4)
    assert len({m["meter"] for m in meters}) == len(meters)
    assert {len(m["meter"]) for m in meters} == {12}
    assert {m["transformer"] for m in meters} == {t["transformer"] for t in transformers}
    assert {t["feeder"] for t in transformers} == {f["feeder"] for f in table("feeders")}
    assert {m["concentrator"] for m in meters} - {""} == {c["concentrator"] for c in table("concentrators")}
    assert {m["head_end"] for m in meters} == {h["head_end"] for h in table("head_ends")} == {"HES-1"}


def test_phases_and_communication_are_mixed() -> None:
    meters = table("meters")
    phases = Counter(m["phases"] for m in meters)
    assert phases["ABC"] == 120
    assert max(phases[p] for p in "ABC") - min(phases[p] for p in "ABC") <= 1
    for m in meters:
        assert (m["concentrator"] == "") == (m["comm_mode"] == "4G")
    under = {
        c: {m["transformer"] for m in meters if m["concentrator"] == c}
        for c in {m["concentrator"] for m in meters} - {""}
    }
    assert {len(transformers) for transformers in under.values()} == {1, 2, 3}


def test_no_transformer_and_no_contract_is_near_its_limit_at_baseline() -> None:
    kw = data.shapes().wh * 4 / 1000
    meters = table("meters")
    rated = {t["transformer"]: float(t["rated_kva"]) for t in table("transformers")}
    load: dict[str, np.ndarray] = {}
    for i, m in enumerate(meters):
        shape = kw[i % len(kw)]
        assert shape.max() * 3.5 <= float(m["contract_kw"])
        load[m["transformer"]] = load.get(m["transformer"], 0.0) + shape
    peak = {t: (kw_of.max() / POWER_FACTOR / rated[t]) for t, kw_of in load.items()}
    assert max(peak.values()) < 0.6
    assert load["LV2.120"].max() / POWER_FACTOR / rated["LV2.120"] == pytest.approx(0.508, abs=0.001)


def test_shapes_are_two_whole_local_days() -> None:
    shapes = data.shapes()
    assert shapes.wh.shape == (120, 192)
    assert len(set(shapes.meter)) == 120
    assert (np.diff(shapes.end_s) == 900).all()
    assert datetime.fromtimestamp(int(shapes.end_s[0]), UTC) == datetime(2018, 11, 12, 23, 15, tzinfo=UTC)
    assert shapes.wh.min() >= 0


def test_the_oddities_of_the_source_are_kept() -> None:
    cut = data.cut()
    assert len(cut.meter) == 31
    name = np.array(cut.meter)[cut.meter_index]
    negative = cut.wh < 0
    assert set(name[negative].tolist()) == {"9717902"}
    assert (int(negative.sum()), int(cut.wh.min())) == (15, -36_480)
    climbing = cut.wh[name == "2046645"].reshape(-1, 96).sum(axis=1)
    assert climbing[:7].max() < 300_000 < 8_000_000 < climbing[-7:].max()
    assert int(cut.wh.max()) == 115_232
