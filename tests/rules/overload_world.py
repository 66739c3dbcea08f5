"""Loads of transformers as reads, and a scalar ladder that says what the rule has to say of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from meterwatch.batch import ReadChange
from meterwatch.episodes import Episode, Severity
from meterwatch.topology import Topology
from rules.ladder import Level
from rules.overload import Overload, OverloadProfile

US = 1_000_000
WINDOW_US = 900 * US
FOREVER = np.iinfo(np.int64).max
DAY_US = 86_400 * US
START_US = 20_000 * DAY_US
START = START_US // WINDOW_US
RATED_KVA = 100.0
FULL_WH = 25_000
"""Energy of one window at b = 1."""
Row = tuple[int, int, int, int, int]
"""slot, end_us, interval_s, import_wh, sign"""


def tree(
    meters: int = 1,
    transformers: int = 1,
    kw: float = 4.0,
    installed_us: list[int] | None = None,
    retired_us: list[int] | None = None,
) -> Topology:
    """Meters dealt out to transformers in turn."""

    def none(n: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.full(n, -1, np.int32)

    return Topology(
        as_of_us=START_US,
        meter=[f"m{i}" for i in range(meters)],
        transformer_of=np.arange(meters, dtype=np.int32) % transformers,
        concentrator_of=none(meters),
        head_end_of=none(meters),
        phases=np.zeros(meters, np.uint8),
        nominal_v=np.full(meters, 230, np.float32),
        rated_a=np.full(meters, 60, np.float32),
        contract_kw=np.full(meters, kw, np.float32),
        interval_s=np.full(meters, 900, np.int32),
        installed_us=np.array(installed_us or [0] * meters, np.int64),
        retired_us=np.array(retired_us or [FOREVER] * meters, np.int64),
        comm_mode=np.zeros(meters, np.int16),
        comm_modes=["PLC"],
        transformer=[f"T{i}" for i in range(transformers)],
        feeder_of=none(transformers),
        rated_kva=np.full(transformers, RATED_KVA),
        transformer_district=[""] * transformers,
        feeder=[],
        feeder_district=[],
        concentrator=[],
        concentrator_head_end=none(0),
        head_end=[],
        late_window_us=np.zeros(0, np.int64),
        slot_of={f"m{i}": i for i in range(meters)},
    )


def change(rows: list[Row], quality: int = 0, has_reactive: bool = True, export_wh: int = 0) -> ReadChange:
    table = np.array(rows, np.int64).reshape(-1, 5)
    n, zeros = len(table), np.zeros(len(table), np.int32)
    return ReadChange(
        slot=table[:, 0].astype(np.int32),
        end_us=table[:, 1],
        interval_s=table[:, 2].astype(np.int32),
        quality=np.full(n, quality, np.int32),
        import_wh=table[:, 3].astype(np.int32),
        export_wh=zeros + np.int32(export_wh),
        import_varh=zeros,
        export_varh=zeros,
        has_energy=np.ones(n, np.bool_),
        has_reactive=np.full(n, has_reactive),
        sign=table[:, 4].astype(np.int8),
    )


def rows_of(loads: Sequence[float | None], slot: int = 0) -> list[Row]:
    """One 15-minute read per window from START on; None: no read."""
    return [
        (slot, START_US + (i + 1) * WINDOW_US, 900, round(b * FULL_WH), 1) for i, b in enumerate(loads) if b is not None
    ]


def now_after(windows: int) -> int:
    return START_US + windows * WINDOW_US


def run(loads: Sequence[float | None], profile: OverloadProfile | None = None) -> tuple[Episode, ...]:
    rule = Overload(tree(), profile)
    rule.observe(change(rows_of(loads)), now_after(len(loads)))
    verdicts = rule.judge(now_after(len(loads)))
    return verdicts[0].episodes if verdicts else ()


Spoken = tuple[int, int, int | None, str]


def oracle(
    loads: Sequence[float | None], profile: OverloadProfile, shares: Sequence[float] | None = None
) -> list[Spoken]:
    """The ladder as one reads it in the rules: (onset, raised, cleared, level) in windows after START.

    shares: what was heard of each window; None: all.
    """
    levels, page = profile.levels, [v.name for v in profile.levels].index(profile.page_from_level)
    hold, since, clear, on = [0] * len(levels), [0] * len(levels), [0] * len(levels), [False] * len(levels)
    gap, worst, onset, raised, free = 0, -1, 0, -1, 0
    said: list[Spoken] = []
    for w, b in enumerate(loads):
        gap = gap + 1 if b is None else 0
        was, begun = any(on), []
        for i, v in enumerate(levels):
            if b is None:
                if gap > profile.max_gap_windows:
                    hold[i] = clear[i] = 0
                continue
            high = b > v.raise_pu if v.strictly_above else b >= v.raise_pu
            since[i] = w if high and not hold[i] else since[i]
            hold[i] = hold[i] + 900 if high else 0
            low = b / (1.0 if shares is None else shares[w]) < v.clear_pu
            clear[i] = clear[i] + 900 if on[i] and low else 0
            if not on[i] and high and hold[i] >= v.hold_s:
                on[i] = True
                begun.append(since[i])
            elif on[i] and low and clear[i] >= v.clear_s:
                on[i], clear[i] = False, 0
        top = max((i for i, latched in enumerate(on) if latched), default=-1)
        if not was and any(on):
            onset, raised, worst = max(min(begun), free), -1, -1
        worst = max(worst, top)
        if raised < 0 and top >= page:
            raised = w + 1
        if was and not any(on) and raised >= 0:
            said.append((onset, raised, w + 1, levels[worst].name))
        if was and not any(on):
            free = w + 1
    if any(on) and raised >= 0:
        said.append((onset, raised, None, levels[top].name))
    return said


def spoken(episodes: tuple[Episode, ...]) -> list[Spoken]:
    def window(us: int) -> int:
        return (us - START_US) // WINDOW_US

    return [
        (window(e.onset_us), window(e.raised_us), None if e.cleared_us is None else window(e.cleared_us), e.level)
        for e in episodes
    ]


PALETTE = [None, 0.0, 0.70, 0.75, 0.78, 0.80, 0.90, 0.95, 0.96, 1.0, 1.04, 1.2, 1.28, 1.3, 1.4, 1.5, 1.6, 2.0, 2.2]
load_runs = st.lists(st.tuples(st.sampled_from(PALETTE), st.integers(1, 12)), min_size=1, max_size=16).map(
    lambda runs: [b for b, length in runs for _ in range(length)][:180]
)
QUICK = OverloadProfile(
    levels=(
        Level("HEAVY", 0.80, 1800, 0.75, 1800, Severity.MEDIUM),
        Level("OVERLOAD", 1.00, 1800, 0.95, 1800, Severity.HIGH, strictly_above=True),
        *OverloadProfile().levels[2:],
    )
)
