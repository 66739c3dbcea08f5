"""One fault, one alarm, across rules: what the load and the heat of a transformer say is told once.

Argument. OVERLOAD and HOT_SPOT follow from the same loads. An episode is *part* of one of the other rule, its *whole*,
if that stood when it was raised and is not outlasted by it for more than OUTLASTS_US. A part is kept and suppressed by
design with its whole as parent, and the whole takes on its severity: nobody is called twice for one heat, and nothing
that gets worse is hidden. A part that outlasts its whole stands by itself again, and no part hides another. All of this
follows from the episodes and not from the order in which they are told, so the law of event time holds.
FORECAST_OVERLOAD is outside that law, because it depends on when a forecast was made: it hides nothing, and one that
came true is a part of what it foretold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from meterwatch.alarms import Alarm, AlarmState
from meterwatch.clock import US
from meterwatch.episodes import Episode, Severity, Verdict

KIN: Final = ("OVERLOAD", "HOT_SPOT")
"""Rules of one fault. Of two raised in the same moment the first is the whole."""
AHEAD: Final = "FORECAST_OVERLOAD"
RULES: Final = (*KIN, AHEAD)
"""Rules that are told together."""
ASSET_KIND: Final = "transformer"
OUTLASTS_US: Final = 7200 * US
"""What lasts so long after its whole has become a fault of its own: the hold of an overload. The oil cools with 3 h, so
heat is often over later than the load that made it. (ours)"""
BESIDE_US: Final = 86_400 * US
"""Kin so far from a verdict's span may tell what is a whole there. (ours)"""
AHEAD_LATE_US: Final = 3600 * US
"""What was raised so long before a forecast is what it foretold: its reads were on their way. (a pass of forecasts)"""
OWN: Final = "own"
"""Evidence of a whole: severity and summary without its parts."""
WITH: Final = "with"
"""Evidence of a whole: rule -> level of the part that lasts."""
Said = tuple[str, Episode]
"""Rule and episode."""
Matched = list[tuple[Alarm, Episode]]
New = list[tuple[Verdict, Episode]]


def is_kin(rule: str, asset_kind: str) -> bool:
    """True: it is told together with others of its asset."""
    return rule in RULES and asset_kind == ASSET_KIND


def as_said(alarm: Alarm) -> Episode:
    """What the rule by itself said, out of an alarm made of it."""
    own: dict[str, Any] = alarm.evidence.get(OWN, {})
    evidence = {name: value for name, value in alarm.evidence.items() if name not in (OWN, WITH)}
    severity = Severity[own["severity"]] if own else alarm.severity
    summary = own.get("summary", alarm.summary)
    times = alarm.onset_us, alarm.raised_us, alarm.cleared_us
    return Episode(*times, severity, alarm.level, summary, evidence)


def told_once(
    verdicts: Sequence[Verdict],
    matched: Matched,
    new: New,
    gone: Collection[str],
    of: Callable[[str, str, int], list[Alarm]],
    now_us: int,
) -> tuple[Matched, New]:
    """What matched an alarm and what is new, with kin told together, and other alarms that this may change.

    gone: alarms that are about to be retracted. of: the alarms there are of a rule and an asset.
    """
    said: dict[int, list[tuple[Alarm | Verdict, Episode]]] = {
        verdict.asset_id: [] for verdict in verdicts if is_kin(verdict.rule, verdict.asset_kind)
    }
    if not said:
        return matched, new
    pairs: list[tuple[Alarm | Verdict, Episode]] = [*matched, *new]
    others = [pair for pair in pairs if not is_kin(pair[0].rule, pair[0].asset_kind)]
    met = set(gone)
    for source, episode in pairs:
        if is_kin(source.rule, source.asset_kind):
            said[source.asset_id].append((source, episode))
        if isinstance(source, Alarm):
            met.add(source.alarm_id)
    for asset, some in said.items():
        known = [alarm for rule in RULES for alarm in of(rule, ASSET_KIND, asset) if alarm.alarm_id not in met]
        some += [(alarm, as_said(alarm)) for alarm in known if alarm.state is not AlarmState.RETRACTED]
        episodes = together([(source.rule, episode) for source, episode in some], now_us)
        others += [(source, episode) for (source, _), episode in zip(some, episodes, strict=True)]
    alarms = [(source, episode) for source, episode in others if isinstance(source, Alarm)]
    return alarms, [(source, episode) for source, episode in others if isinstance(source, Verdict)]


def together(said: Sequence[Said], now_us: int) -> list[Episode]:
    """The episodes of one transformer, aligned: parts with `part_of`, wholes with the severity of their parts."""
    wholes = _wholes(said, now_us)
    found = [episode for _, episode in said]
    for part, whole in wholes.items():
        found[part] = replace(found[part], part_of=(said[whole][0], found[whole].raised_us))
    for whole in sorted(set(wholes.values())):
        parts = [said[part] for part, of in wholes.items() if of == whole and said[part][0] != AHEAD]
        found[whole] = _with(found[whole], [one for one in parts if _counts(found[whole], one[1])])
    return found


def beside(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, and for those of kin wider ones of every rule: what must be known to tell them together."""
    wider = []
    for one in verdicts:
        if is_kin(one.rule, one.asset_kind):
            from_us = min([one.from_us, *(episode.onset_us for episode in one.episodes)]) - BESIDE_US
            until_us = None if one.until_us is None else one.until_us + BESIDE_US
            wider += [
                replace(one, rule=rule, from_us=max(from_us, 0), until_us=until_us, episodes=()) for rule in RULES
            ]
    return [*verdicts, *wider]


def _wholes(said: Sequence[Said], now_us: int) -> dict[int, int]:
    """Of each part its whole, by place. Who is a part follows from what was raised before it alone."""
    order = [at for at, (rule, _) in enumerate(said) if rule != AHEAD]
    order.sort(key=lambda at: (said[at][1].raised_us, KIN.index(said[at][0])))
    found: dict[int, int] = {}
    for n, at in enumerate(order):
        rule, episode = said[at]
        for before in order[:n]:
            if said[before][0] != rule and before not in found and _covers(said[before][1], episode, now_us):
                found[at] = before
                break
    roots = [at for at in order if at not in found]
    for at, (rule, episode) in enumerate(said):
        if rule == AHEAD and (true := [root for root in roots if _foretold(episode, said[root][1])]):
            found[at] = true[0]
    return found


def _foretold(ahead: Episode, episode: Episode) -> bool:
    since_us = ahead.raised_us - AHEAD_LATE_US
    return since_us <= episode.raised_us and (ahead.cleared_us is None or episode.raised_us <= ahead.cleared_us)


def _covers(whole: Episode, part: Episode, now_us: int) -> bool:
    if whole.cleared_us is None:
        return True
    end_us = now_us if part.cleared_us is None else part.cleared_us
    return part.raised_us < whole.cleared_us and end_us <= whole.cleared_us + OUTLASTS_US


def _counts(whole: Episode, part: Episode) -> bool:
    """One that lasts has its present severity, one that is over the worst."""
    return part.cleared_us is None or whole.cleared_us is not None


def _with(whole: Episode, parts: Sequence[Said]) -> Episode:
    if not parts:
        return whole
    rule, worst = max(parts, key=lambda one: (one[1].severity, one[1].raised_us))
    own = {"severity": whole.severity.name, "summary": whole.summary}
    return replace(
        whole,
        severity=max(whole.severity, worst.severity),
        summary=f"{whole.summary}. With it: {worst.summary}",
        evidence=whole.evidence | {OWN: own, WITH: {rule: worst.level}},
    )
