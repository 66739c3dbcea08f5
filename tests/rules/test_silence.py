"""COMM_LOSS: our deafness is not their silence, and one dead concentrator is one alarm."""

from __future__ import annotations

import dataclasses

import numpy as np
from towns import T0, town

from meterwatch.clock import US
from meterwatch.episodes import Severity, Verdict
from rules.profile import SilenceProfile
from rules.silence import Silence, explained_by

TOWN = town(feeders=1, transformers=2, meters=20, concentrator_meters=10)
EVERYBODY = np.arange(40, dtype=np.int32)
NOBODY = np.zeros(40, np.bool_)
DUE_S = 900 + 2700  # interval and grace of RF mesh


def at(seconds: int) -> int:
    return T0 + seconds * US


def hear(silence: Silence, slots: np.ndarray, seconds: int) -> None:
    silence.heard(slots.astype(np.int32), np.full(len(slots), at(seconds), np.int64))


def listening() -> Silence:
    """Connected at 0, everybody heard at 0."""
    silence = Silence(TOWN, ALWAYS)
    silence.head_end_connected(0, at(0))
    hear(silence, EVERYBODY, 0)
    return silence


ALWAYS = SilenceProfile(judge_every_s=0)
"""Everybody is looked at in every call."""


def only(verdicts: list[Verdict]) -> tuple[str, int, bool]:
    assert len(verdicts) == 1
    assert not verdicts[0].retract
    (episode,) = verdicts[0].episodes
    return verdicts[0].asset_kind, verdicts[0].asset_id, episode.cleared_us is None


def test_a_dead_concentrator_is_one_alarm_until_it_is_heard() -> None:
    silence = listening()
    hear(silence, EVERYBODY[10:], 3600)
    assert silence.judge(at(DUE_S), NOBODY) == []
    verdicts = silence.judge(at(DUE_S + 1), NOBODY)
    assert only(verdicts) == ("concentrator", 0, True)
    episode = verdicts[0].episodes[0]
    assert (episode.onset_us, episode.raised_us) == (at(900), at(DUE_S))
    assert (episode.severity, episode.level) == (Severity.MEDIUM, "SILENT")
    assert episode.summary == "Concentrator C0 silent: 10 of 10 meters overdue"
    assert silence.judge(at(DUE_S + 60), NOBODY) == []
    hear(silence, EVERYBODY[:8], 5000)
    assert silence.judge(at(5000), NOBODY) == []  # 2 of 10 still overdue: not fewer than 20 %
    hear(silence, EVERYBODY[:9], 5100)
    verdicts = silence.judge(at(5100), NOBODY)
    assert only(verdicts) == ("concentrator", 0, False)
    assert verdicts[0].episodes[0].cleared_us == at(5100)
    assert silence.judge(at(5200), NOBODY) == []


def test_seven_of_ten_overdue_is_no_lost_concentrator_eight_is() -> None:
    for dead, alarms in ((7, 0), (8, 1)):
        silence = listening()
        hear(silence, EVERYBODY[dead:], 3600)
        assert len(silence.judge(at(DUE_S + 1), NOBODY)) == alarms


def test_a_service_that_cannot_hear_says_nothing() -> None:
    silence = Silence(TOWN, ALWAYS)
    hear(silence, EVERYBODY, 0)
    assert silence.judge(at(100 * 3600), NOBODY) == []
    silence.head_end_connected(0, at(100 * 3600))
    assert silence.judge(at(100 * 3600 + DUE_S), NOBODY) == []
    assert len(silence.judge(at(100 * 3600 + DUE_S + 1), NOBODY)) == 4


def test_time_in_which_we_could_not_hear_is_no_silence() -> None:
    silence = listening()
    silence.deaf_to(frozenset({0}), at(1000))
    assert silence.judge(at(DUE_S + 5000), NOBODY) == []
    silence.deaf_to(frozenset(), at(DUE_S + 5000))
    assert silence.judge(at(DUE_S + 5000), NOBODY) == []
    assert silence.judge(at(DUE_S + 5000 + DUE_S), NOBODY) == []
    assert len(silence.judge(at(DUE_S + 5000 + DUE_S + 1), NOBODY)) == 4


def test_a_head_end_that_left_while_we_could_not_hear_is_gone_since_we_can() -> None:
    silence = listening()
    hear(silence, EVERYBODY, 0)
    silence.head_end_gone(0, at(100))
    silence.deaf_to(frozenset({0}), at(200))
    assert silence.judge(at(100 + 5000), NOBODY) == []
    silence.deaf_to(frozenset(), at(5100))
    assert silence.judge(at(5100 + 1799), NOBODY) == []
    assert only(silence.judge(at(5100 + 1800), NOBODY)) == ("head_end", 0, True)


def test_a_head_end_gone_is_one_alarm_and_its_assets_keep_their_state() -> None:
    silence = listening()
    hear(silence, EVERYBODY[10:], 3600)
    assert only(silence.judge(at(DUE_S + 1), NOBODY)) == ("concentrator", 0, True)
    silence.head_end_gone(0, at(4000))
    assert silence.judge(at(4000 + 1799), NOBODY) == []
    verdicts = silence.judge(at(20_000), NOBODY)
    assert only(verdicts) == ("head_end", 0, True)
    assert (verdicts[0].episodes[0].onset_us, verdicts[0].episodes[0].raised_us) == (at(4000), at(5800))
    silence.head_end_connected(0, at(30_000))
    assert only(silence.judge(at(30_001), NOBODY)) == ("head_end", 0, False)  # and C0 is still lost
    hear(silence, EVERYBODY, 30_010)
    assert only(silence.judge(at(30_010), NOBODY)) == ("concentrator", 0, False)


def test_a_short_break_of_the_head_end_is_nothing() -> None:
    silence = listening()
    silence.head_end_gone(0, at(100))
    silence.head_end_connected(0, at(1000))
    assert silence.judge(at(3000), NOBODY) == []


def test_an_outage_explains_silence_and_the_clock_starts_again_after_it() -> None:
    silence = listening()
    explained = explained_by(TOWN, [("transformer", 0)])
    assert explained.tolist() == [True] * 20 + [False] * 20
    hear(silence, EVERYBODY[20:], 3600)
    assert silence.judge(at(DUE_S + 1), explained) == []
    hear(silence, EVERYBODY[20:], 10_000)
    assert silence.judge(at(10_000), NOBODY) == []
    assert silence.judge(at(10_000 + DUE_S), NOBODY) == []
    hear(silence, EVERYBODY[20:], 10_000 + DUE_S)
    assert [v.asset_id for v in silence.judge(at(10_000 + DUE_S + 1), NOBODY)] == [0, 1]


def test_a_single_meter_is_told_after_a_day() -> None:
    silence = listening()
    hear(silence, EVERYBODY[1:], 86_400)
    assert silence.judge(at(86_400), NOBODY) == []
    verdicts = silence.judge(at(86_401), NOBODY)
    assert only(verdicts) == ("meter", 0, True)
    assert verdicts[0].episodes[0].severity is Severity.LOW
    assert verdicts[0].episodes[0].onset_us == at(900)
    assert silence.judge(at(86_500), NOBODY) == []
    hear(silence, EVERYBODY[:1], 86_600)
    assert only(silence.judge(at(86_601), NOBODY)) == ("meter", 0, False)


def test_a_silent_meter_of_a_lost_concentrator_is_folded_into_it() -> None:
    silence = listening()
    hear(silence, EVERYBODY[1:], 86_400)
    assert only(silence.judge(at(86_401), NOBODY)) == ("meter", 0, True)
    hear(silence, EVERYBODY[10:], 95_000)
    verdicts = {v.asset_kind: v.episodes[0] for v in silence.judge(at(95_000), NOBODY)}
    assert verdicts["concentrator"].cleared_us is None
    assert verdicts["meter"].parent == ("concentrator", 0)


def test_an_open_episode_is_put_back_after_a_restart_and_told_no_second_time() -> None:
    silence = Silence(TOWN, ALWAYS)
    hear(silence, EVERYBODY, 0)
    silence.restore_open("concentrator", 0, at(900), at(DUE_S))
    silence.head_end_connected(0, at(9000))
    hear(silence, EVERYBODY[10:], 9100)
    assert silence.judge(at(9100), NOBODY) == []
    hear(silence, EVERYBODY, 9200)
    verdicts = silence.judge(at(9200), NOBODY)
    assert only(verdicts) == ("concentrator", 0, False)
    assert (verdicts[0].episodes[0].onset_us, verdicts[0].episodes[0].raised_us) == (at(900), at(DUE_S))


def test_cellular_meters_have_less_grace_and_retired_ones_are_not_missed() -> None:
    topology = town(feeders=1, transformers=2, meters=20, concentrator_meters=10, comm_mode="NB-IoT")
    retired = topology.retired_us.copy()
    retired[:10] = at(100)
    silence = Silence(dataclasses.replace(topology, retired_us=retired), ALWAYS)
    silence.head_end_connected(0, at(0))
    assert silence.judge(at(2700), NOBODY) == []
    assert [v.asset_id for v in silence.judge(at(2701), NOBODY)] == [1, 2, 3]


def test_a_new_registry_keeps_what_was_heard() -> None:
    silence = listening()
    hear(silence, EVERYBODY, 3000)
    silence.retopology(town(feeders=1, transformers=3, meters=20, concentrator_meters=10))
    everybody = np.zeros(60, np.bool_)
    assert {v.asset_id for v in silence.judge(at(DUE_S + 1), everybody)} == {4, 5}


def test_looking_seldom_finds_the_same_silences() -> None:
    random = np.random.default_rng(5)
    topology = town(feeders=1, transformers=4, meters=10, concentrator_meters=8)
    always, seldom = Silence(topology, ALWAYS), Silence(topology, SilenceProfile(judge_every_s=600))
    found: list[set[tuple[str, int, int, int]]] = [set(), set()]
    ended: list[set[tuple[str, int, int]]] = [set(), set()]
    for silence in (always, seldom):
        silence.head_end_connected(0, at(0))
    for minute in range(0, 60 * 60, 5):
        dead = (minute // 300) % 5
        slots = np.array([s for s in range(40) if s // 8 != dead and random.random() < 0.4], np.int32)
        for i, silence in enumerate((always, seldom)):
            silence.heard(slots, np.full(len(slots), at(minute * 60)))
            for verdict in silence.judge(at(minute * 60), NOBODY):
                (episode,) = verdict.episodes
                if episode.cleared_us is None:
                    found[i].add((verdict.asset_kind, verdict.asset_id, episode.onset_us, episode.raised_us))
                else:
                    ended[i].add((verdict.asset_kind, verdict.asset_id, episode.cleared_us))
    assert found[0]
    assert ended[0]
    assert found[0] == found[1]
    assert ended[0] == ended[1]


def test_an_alarm_that_ends_on_a_clock_set_back_ends_no_earlier_than_it_was_raised() -> None:
    """Told while the clock was an hour ahead: with an end before its onset it was another alarm to the book, and the
    first one stood for ever."""
    for kind, ends in (("head_end", lambda one: one.head_end_connected(0, at(600))), ("concentrator", heard_again)):
        silence = listening()
        if kind == "head_end":
            silence.head_end_gone(0, at(3600))
            [told] = silence.judge(at(5400), NOBODY)
        else:
            hear(silence, EVERYBODY[10:], 7200)
            [told] = silence.judge(at(7200), NOBODY)
        ends(silence)
        [over] = [one for one in silence.judge(at(601), NOBODY) if one.asset_kind == kind]
        [episode], [before] = over.episodes, told.episodes
        assert (episode.onset_us, episode.cleared_us) == (before.onset_us, before.raised_us), kind


def heard_again(silence: Silence) -> None:
    hear(silence, EVERYBODY, 600)
