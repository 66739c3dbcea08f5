"""The engine as a whole: what it wants to know, and what it does not begin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from towns import T0, town

from meterwatch.batch import EventCode, Events
from meterwatch.clock import US
from meterwatch.episodes import Episode
from rules.engine import LOOKBACK_S, MARGIN_S, Engine

Known = dict[tuple[str, int], tuple[Episode, ...]]


def last_gasp(slot: int, at_us: int) -> Events:
    return Events(
        np.array([slot], np.int32), np.array([at_us], np.int64), np.array([int(EventCode.POWER_FAIL)], np.int16)
    )


def test_evidence_beyond_the_reach_of_its_group_begins_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rules.engine.HISTORY_METER_DAYS", 70)  # 10 meters: a week
    engine = Engine(town(feeders=2, transformers=2, meters=5))
    oldest_us = T0 - 7 * 86_400 * US
    engine.observe_events(last_gasp(0, oldest_us - 1), T0)
    assert engine.wanted() == []
    engine.observe_events(last_gasp(0, oldest_us), T0)
    [wanted] = engine.wanted()
    assert wanted.from_us == oldest_us - MARGIN_S * US
    assert len(wanted.slots) == 10


def outages_of(votes: list[tuple[int, int, int]], now_us: int) -> Known:
    """What an engine knows in the end that heard these (slot, seconds, code) one by one."""
    engine = Engine(town(feeders=1, transformers=2, meters=3))
    heard = [(slot, 2500, int(EventCode.POWER_RESTORED)) for slot in range(6)]  # so that nothing is open in the end
    known: Known = {}
    for vote in votes:
        heard.append(vote)
        engine.observe_events(events([vote]), now_us)
        for wanted in engine.wanted():
            mine = [one for one in heard if one[0] in wanted.slots and T0 + one[1] * US >= wanted.from_us]
            engine.given(wanted, [], events(mine))
        for verdict in engine.evaluate(now_us):
            known[verdict.asset_kind, verdict.asset_id] = verdict.episodes
    return {asset: episodes for asset, episodes in known.items() if episodes}


def events(votes: list[tuple[int, int, int]]) -> Events:
    slot, at_s, code = (np.array([vote[i] for vote in votes], np.int64) for i in range(3))
    return Events(slot.astype(np.int32), T0 + at_s * US, code.astype(np.int16))


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 40).map(lambda i: i * 50),
            st.sampled_from([EventCode.POWER_FAIL, EventCode.POWER_FAIL, EventCode.POWER_RESTORED]).map(int),
        ),
        max_size=40,
        unique=True,
    ),
    st.randoms(use_true_random=False),
)
def test_what_an_engine_knows_in_the_end_does_not_depend_on_the_order(votes, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(votes)
    random.shuffle(shuffled)
    now_us = T0 + 3 * 3600 * US
    assert outages_of(shuffled, now_us) == outages_of(votes, now_us)


def test_forgetting_old_votes_changes_no_outage_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored in two parts, and looked at again a day later, when the votes of a day ago may go."""
    monkeypatch.setattr("rules.engine.PRUNE_ROWS", 0)
    fail, restored = int(EventCode.POWER_FAIL), int(EventCode.POWER_RESTORED)
    votes = [(slot, 0, fail) for slot in range(10)]
    votes += [(slot, 1800 if slot < 8 else 3000, restored) for slot in range(10)]
    for again_s in (-60, 100, 1790, 2400, 3030, 3070, 7200):
        engine = Engine(town(feeders=1, transformers=2, meters=10))
        engine.observe_events(events(votes), T0 + 4000 * US)
        known = {}
        for now_s, heard in ((4000, votes), (86_400 + again_s, [(15, 86_400 + again_s - 10, fail)])):
            engine.observe_events(events(heard), T0 + now_s * US)
            for wanted in engine.wanted():
                engine.given(wanted, [], events(votes))
            for state in engine._active.values():
                state.pruned_rows = 0  # so that every judgement forgets what it may
            for verdict in engine.evaluate(T0 + now_s * US):
                if (verdict.asset_kind, verdict.asset_id) == ("transformer", 0):
                    known[now_s] = verdict
        first, later = known[4000], known[86_400 + again_s]
        [episode] = first.episodes
        if later.from_us <= episode.cleared_us:
            assert later.episodes == first.episodes, again_s
        else:
            assert later.episodes == (), again_s


@pytest.mark.parametrize("restart", [False, True])
def test_a_late_word_moves_the_end_of_an_outage_of_days(restart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last meter is known to be back from its second word after the fault; its first one comes an hour later."""
    monkeypatch.setattr("rules.engine.PRUNE_ROWS", 0)
    fail, restored, back_s = int(EventCode.POWER_FAIL), int(EventCode.POWER_RESTORED), 3 * 86_400
    stored: list[tuple[int, int, int]] = []
    engine = Engine(town(feeders=1, transformers=2, meters=3))
    ends_s = []
    for now_s, came in (
        (600, [(slot, 0, fail) for slot in range(3)]),
        (back_s + 1800, [(0, back_s, restored), (1, back_s, restored), (2, back_s + 900, restored)]),
        (back_s + 5400, [(2, back_s, restored)]),
    ):
        stored += came
        if restart and ends_s:  # as a start has it, where an outage ended among the votes of a day
            engine = Engine(town(feeders=1, transformers=2, meters=3))
            engine.restore_open("transformer", 0, T0 - MARGIN_S * US, T0 + now_s * US)
            answered(engine, stored[: -len(came)], now_s)
        engine.observe_events(events(came), T0 + now_s * US)
        [episode] = answered(engine, stored, now_s)["transformer", 0]
        ends_s.append(episode.cleared_us and (episode.cleared_us - T0) // US)
    assert ends_s == [None, back_s + 960, back_s + 60]
    assert engine.due_us == T0 + (back_s + LOOKBACK_S) * US + 1
    answered(engine, stored, back_s + LOOKBACK_S + 1)
    assert not engine._active


def answered(engine: Engine, stored: list[tuple[int, int, int]], now_s: int) -> Known:
    """What it knows now, given what it wants to know and with all forgotten that may be."""
    for wanted in engine.wanted():
        mine = [one for one in stored if one[0] in wanted.slots and T0 + one[1] * US >= wanted.from_us]
        engine.given(wanted, [], events(mine))
    for state in engine._active.values():
        state.pruned_rows = 0
    return {(one.asset_kind, one.asset_id): one.episodes for one in engine.evaluate(T0 + now_s * US)}
