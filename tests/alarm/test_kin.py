"""Laws of alarm.kin: load and heat of a transformer call once, nothing worse is hidden, and no order matters."""

from __future__ import annotations

from typing import Any

from alarm_cases import names
from hypothesis import given, settings
from hypothesis import strategies as st

from alarm.book import Book
from alarm.kin import AHEAD, AHEAD_LATE_US, KIN, OUTLASTS_US, OWN, RULES, WITH, beside, together
from meterwatch.alarms import Alarm, AlarmState, TransitionKind
from meterwatch.clock import US
from meterwatch.episodes import Episode, Severity, Verdict

MINUTE = 60 * US
LOAD, HEAT = KIN
NOW_US = 1_000_000 * MINUTE


def episode(raised: int, cleared: int | None, severity: Severity = Severity.HIGH) -> Episode:
    """Minutes; the onset lies a quarter of an hour before it is raised."""
    end_us = None if cleared is None else NOW_US + cleared * MINUTE
    onset_us = NOW_US + (raised - 15) * MINUTE
    return Episode(onset_us, onset_us + 15 * MINUTE, end_us, severity, severity.name, f"at {raised}", {"b": 1.2})


def verdict(rule: str, *episodes: Episode, asset: int = 0) -> Verdict:
    return Verdict(rule, "transformer", asset, 0, episodes)


def told(book: Book, now: int, *verdicts: Verdict) -> list[Any]:
    """Minutes; what changed."""
    drafts = book.reconcile(verdicts, NOW_US + now * MINUTE)
    book.apply([draft.alarm for draft in drafts])
    return drafts


def of(book: Book, rule: str) -> Alarm:
    [alarm] = book.of(rule, "transformer", 0)
    return alarm


def test_heat_under_an_overload_is_a_part_of_it_and_lends_it_its_severity() -> None:
    book = Book([], names())
    told(book, 60, verdict(LOAD, episode(30, None, Severity.MEDIUM)))
    [new, lifted] = told(book, 90, verdict(HEAT, episode(80, None, Severity.CRITICAL)))
    assert (new.kind, new.alarm.state, new.alarm.parent_id) == (
        TransitionKind.RAISED, AlarmState.SUPPRESSED, of(book, LOAD).alarm_id,
    )  # fmt: skip
    assert (lifted.kind, lifted.alarm.rule, lifted.alarm.severity) == (TransitionKind.SEVERITY, LOAD, Severity.CRITICAL)
    assert lifted.alarm.evidence[WITH] == {HEAT: "CRITICAL"}
    assert lifted.alarm.evidence[OWN] == {"severity": "MEDIUM", "summary": "at 30"}
    assert "at 80" in lifted.alarm.summary
    assert told(book, 91, verdict(HEAT, episode(80, None, Severity.CRITICAL))) == []
    told(book, 120, verdict(HEAT, episode(80, 110, Severity.CRITICAL)))
    assert (of(book, HEAT).state, of(book, LOAD).severity) == (AlarmState.NORMAL, Severity.MEDIUM)
    assert (of(book, LOAD).summary, OWN in of(book, LOAD).evidence) == ("at 30", False)
    told(book, 200, verdict(LOAD, episode(30, 190, Severity.MEDIUM)))
    assert of(book, LOAD).severity is Severity.CRITICAL, "of what is over the worst"


def test_an_overload_raised_later_is_a_part_of_the_heat() -> None:
    book = Book([], names())
    told(book, 30, verdict(HEAT, episode(20, None)))
    told(book, 60, verdict(LOAD, episode(50, None, Severity.MEDIUM)), verdict(HEAT, episode(20, None)))
    assert (of(book, HEAT).state, of(book, LOAD).state) == (AlarmState.UNACK_ACTIVE, AlarmState.SUPPRESSED)


def test_what_is_raised_together_is_told_as_the_overload() -> None:
    book = Book([], names())
    told(book, 60, verdict(HEAT, episode(30, None)), verdict(LOAD, episode(30, None)))
    assert (of(book, LOAD).state, of(book, HEAT).state) == (AlarmState.UNACK_ACTIVE, AlarmState.SUPPRESSED)
    assert of(book, HEAT).parent_id == of(book, LOAD).alarm_id


def test_a_part_that_outlasts_its_whole_calls_when_it_has_for_two_hours() -> None:
    book = Book([], names())
    hold = OUTLASTS_US // MINUTE
    told(book, 60, verdict(HEAT, episode(30, None)), verdict(LOAD, episode(40, None)))
    told(book, 100, verdict(HEAT, episode(30, 90)))
    assert told(book, 90 + hold, verdict(LOAD, episode(40, None))) == []
    [released] = told(book, 91 + hold, verdict(LOAD, episode(40, None)))
    assert (released.kind, released.alarm.state) == (TransitionKind.UNSUPPRESSED, AlarmState.UNACK_ACTIVE)
    assert released.alarm.parent_id is None


def test_a_part_hides_nothing() -> None:
    said = [(LOAD, episode(10, 40)), (HEAT, episode(20, 100)), (LOAD, episode(60, 120))]
    found = together(said, NOW_US + 200 * MINUTE)
    assert [one.part_of for one in found] == [None, (LOAD, said[0][1].raised_us), None]


def test_a_retracted_whole_sets_its_part_free() -> None:
    book = Book([], names())
    told(book, 60, verdict(LOAD, episode(30, None)), verdict(HEAT, episode(40, None)))
    told(book, 61, verdict(LOAD))
    assert (of(book, LOAD).state, of(book, HEAT).state) == (AlarmState.RETRACTED, AlarmState.UNACK_ACTIVE)


def test_others_are_told_by_themselves() -> None:
    book = Book([], names())
    feeder = Verdict(LOAD, "feeder", 0, 0, (episode(30, None),))
    told(book, 60, feeder, verdict(HEAT, episode(40, None)), verdict("REVERSE", episode(41, None)))
    assert {alarm.state for alarm in book} == {AlarmState.UNACK_ACTIVE}


def test_a_forecast_hides_nothing_and_gives_way_when_it_comes_true() -> None:
    book = Book([], names())
    told(book, 0, verdict(AHEAD, episode(0, None)))
    drafts = told(book, 60, verdict(LOAD, episode(50, None, Severity.MEDIUM)))
    assert [(one.kind, one.alarm.rule) for one in drafts] == [
        (TransitionKind.RAISED, LOAD), (TransitionKind.SUPPRESSED, AHEAD),
    ]  # fmt: skip
    assert (of(book, LOAD).state, of(book, LOAD).severity) == (AlarmState.UNACK_ACTIVE, Severity.MEDIUM)
    assert (of(book, AHEAD).state, of(book, AHEAD).parent_id) == (AlarmState.SUPPRESSED, of(book, LOAD).alarm_id)
    told(book, 120, verdict(AHEAD, episode(0, 115)))
    assert (of(book, AHEAD).state, of(book, AHEAD).parent_id) == (AlarmState.NORMAL, of(book, LOAD).alarm_id)
    assert told(book, 121, verdict(LOAD, episode(50, None, Severity.MEDIUM))) == []


def test_a_forecast_that_did_not_come_true_stays_what_it_is() -> None:
    late = AHEAD_LATE_US // MINUTE
    said = [(LOAD, episode(100, 200)), (AHEAD, episode(0, 90)), (AHEAD, episode(101 + late, 400))]
    assert [one.part_of for one in together(said, NOW_US + 500 * MINUTE)] == [None, None, None]


def disjoint(bounds: list[int], lasts: bool) -> list[Episode]:
    """Episodes of one rule, each after the one before it."""
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    severities = (Severity.MEDIUM, Severity.CRITICAL)
    made = [episode(low, high, severities[n % 2]) for n, (low, high) in enumerate(pairs)]
    return [*made[:-1], episode(pairs[-1][0], None)] if lasts and made else made


RISING = st.lists(st.integers(0, 600), min_size=2, max_size=6, unique=True).map(sorted)


@settings(max_examples=200, deadline=None)
@given(RISING, RISING, st.booleans(), st.booleans())
def test_the_order_in_which_they_are_told_does_not_matter(
    loads: list[int], heats: list[int], load_lasts: bool, heat_lasts: bool
) -> None:
    verdicts = [verdict(LOAD, *disjoint(loads, load_lasts)), verdict(HEAT, *disjoint(heats, heat_lasts))]
    seen = set()
    for some in ([verdicts], [[one] for one in verdicts], [[one] for one in reversed(verdicts)]):
        book = Book([], names())
        for together_told in some:
            told(book, 700, *together_told)
        rows = [(a.rule, a.onset_us, a.cleared_us or 0, a.severity, a.parent_id or "") for a in book]
        ids = {a.alarm_id: (a.rule, a.onset_us) for a in book}
        seen.add(tuple(sorted((*row[:4], ids.get(row[4], ("", 0))) for row in rows)))
        assert all(
            (a.state is AlarmState.SUPPRESSED) == (a.parent_id is not None) for a in book if a.cleared_us is None
        )
    assert len(seen) == 1


@settings(max_examples=200, deadline=None)
@given(RISING, RISING)
def test_a_part_lies_within_its_whole_and_is_not_worse(loads: list[int], heats: list[int]) -> None:
    said = [(LOAD, one) for one in disjoint(loads, False)] + [(HEAT, one) for one in disjoint(heats, False)]
    found = together(said, NOW_US + 700 * MINUTE)
    wholes = {(rule, one.raised_us): one for (rule, _), one in zip(said, found, strict=True)}
    for (rule, _), one in zip(said, found, strict=True):
        if one.part_of is not None:
            whole = wholes[one.part_of]
            assert one.part_of[0] != rule
            assert whole.part_of is None
            assert whole.raised_us <= one.raised_us < (whole.cleared_us or 0)
            assert (one.cleared_us or 0) <= (whole.cleared_us or 0) + OUTLASTS_US
            assert whole.severity >= one.severity


def test_the_past_is_asked_for_with_the_kin_beside_it() -> None:
    one = verdict(HEAT, episode(0, 10))
    found = beside([one, verdict("OUTAGE")])
    assert found[:2] == [one, verdict("OUTAGE")]
    assert [(wider.rule, wider.asset_id) for wider in found[2:]] == [(rule, 0) for rule in RULES]
