"""The figures of a run's alarms against its truth: how many faults were told, how soon, and what was told for nothing.

Pure: a record in, a dict out, in which every figure comes from the record. What cannot be computed is None (no fault,
no page to divide by) or, where the inputs for it are missing, not there at all. The pairs come from loadtest.match.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from loadtest.match import FOREVER_US, OF_HEAT, QUIET, FalsePage, Match, match, overlaps
from loadtest.record import Fault, Record, Told

WARNS: Final = OF_HEAT | {"OVERLOAD"}
"""Types of alarm that warn of a transformer's heat."""
BY_TYPE: Final[Mapping[str, str]] = {
    "alarms_of_load": "OVERLOAD", "alarms_of_heat": "HOT_SPOT", "alarms_of_forecast": "FORECAST_OVERLOAD",
}  # fmt: skip
CLEAR_LATE_S: Final[Mapping[str, int]] = {"OUTAGE": 900, "COMM_LOSS": 1800, "OVERLOAD": 3600}
"""How long after the end of a fault its alarm may stand: the rule's own off delay and one interval for the reads."""
CLEAR_LATE_OTHER_S: Final = 1800
DAY_S: Final = 86_400


def score(record: Record) -> dict[str, Any]:
    """Judge a run.

    recall: faults told / true faults. precision: pages that told / pages. pages_per_fault: pages / true faults.
    time_to_root_s: onset of an OUTAGE of more than a single meter to when the service recorded its alarm;
    time_to_meter_s: of a single one, which by rule waits until the interruption counts as sustained. clear_s: end of a
    fault to the clear. false_roots: OUTAGE pages for an asset that, as a whole, had supply; single meters count and are
    also told apart as false_roots_meter. A page below the root of a true outage is false, but no false root. `false`
    and `missed` list all; `by_kind` has the same per kind. Percentiles are nearest-rank.
    """
    found = match(record)
    faults = [fault for fault in record.faults if fault.kind not in QUIET and fault.expected]
    result: dict[str, Any] = _figures(len(faults), found.pairs, found.false)
    outages = [pair for pair in found.pairs if pair[0].kind == "OUTAGE"]
    for name, single in (("time_to_root_s", False), ("time_to_meter_s", True)):
        told_s = _seconds_to_tell([pair for pair in outages if (pair[0].asset_kind == "meter") is single])
        result[f"{name}_p50"], result[f"{name}_p95"] = percentile(told_s, 50), percentile(told_s, 95)
    false_roots = [one.alarm for one in found.false if one.false_root]
    result["false_roots"] = len(false_roots)
    result["false_roots_meter"] = sum(told.asset_kind == "meter" for told in false_roots)
    transformers, simulated_s = record.inputs.get("transformers"), record.inputs.get("simulated_s")
    if transformers and simulated_s:
        per_day = result["false_roots"] / (transformers / 10_000) / (simulated_s / DAY_S)
        result["false_roots_per_10k_day"] = round(per_day, 4)
    late = [(fault, told) for fault, told in found.pairs if cleared_late(fault, told, record.inputs)]
    result["cleared_late"] = len(late)
    result["cleared_early"] = sum(_early(fault, told, found.tolerance_us) for fault, told in found.pairs)
    result |= _clear_s(found.pairs)
    result |= _heat(record, found)
    result["by_kind"] = _by_kind(faults, found)
    result["tolerance_s"] = found.tolerance_us / 1e6
    result["missed"] = [_fault_row(fault) for fault in found.missed]
    result["false"] = [_false_row(one) for one in found.false]
    result["late_clears"] = [_fault_row(fault) | {"alarm_id": told.alarm_id} for fault, told in late]
    return result


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Nearest-rank percentile; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def _figures(faults: int, pairs: Sequence[tuple[Fault, Told]], false: Sequence[FalsePage]) -> dict[str, Any]:
    pages = len(pairs) + len(false)
    return {
        "faults": faults,
        "found": len(pairs),
        "pages": pages,
        "recall": _ratio(len(pairs), faults),
        "precision": _ratio(len(pairs), pages),
        "pages_per_fault": _ratio(pages, faults),
    }


def _by_kind(faults: Sequence[Fault], found: Match) -> dict[str, dict[str, Any]]:
    result = {}
    for kind in sorted({fault.kind for fault in faults} | {told.type for told in found.pages}):
        pairs = [pair for pair in found.pairs if pair[0].kind == kind]
        false = [one for one in found.false if one.alarm.type == kind]
        told_s = _seconds_to_tell(pairs)
        result[kind] = _figures(sum(fault.kind == kind for fault in faults), pairs, false) | {
            "false": len(false),
            "time_to_alarm_s_p50": percentile(told_s, 50),
            "time_to_alarm_s_p95": percentile(told_s, 95),
            **_clear_s(pairs),
        }
    return result


def _seconds_to_tell(pairs: Iterable[tuple[Fault, Told]]) -> list[float]:
    return [(told.recorded_us - fault.onset_us) / 1e6 for fault, told in pairs]


def _clear_s(pairs: Iterable[tuple[Fault, Told]]) -> dict[str, float | None]:
    spans = [
        (told.cleared_us - fault.end_us) / 1e6
        for fault, told in pairs
        if fault.end_us is not None and told.cleared_us is not None
    ]
    return {"clear_s_p50": percentile(spans, 50), "clear_s_p95": percentile(spans, 95)}


def cleared_late(fault: Fault, told: Told, inputs: Mapping[str, Any]) -> bool:
    """True: the alarm stood longer after the fault than allowed, or still stands though the run went on for so long."""
    end_us = int(inputs.get("end_us") or FOREVER_US)
    if fault.end_us is None:
        return False
    latest_us = fault.end_us + CLEAR_LATE_S.get(fault.kind, CLEAR_LATE_OTHER_S) * 1_000_000
    return latest_us < (end_us if told.cleared_us is None else told.cleared_us)


def _early(fault: Fault, told: Told, tolerance_us: int) -> bool:
    """True: the alarm was cleared while the fault went on."""
    if told.cleared_us is None:
        return False
    return fault.end_us is None or told.cleared_us < fault.end_us - tolerance_us


def _heat(record: Record, found: Match) -> dict[str, float | None]:
    """Against "two hours above the rating", where the scenario has worked that out.

    warned_in_time: of the faults that pass 140 C, the share warned of no later than that rule does, or no later than
    the 140 C if it never warns; warned_before_hot: no later than the 140 C; the latter also of that rule. A warning is
    an alarm of WARNS that paged and stands, so that what calls nobody warns nobody.
    alarms_over_two_hour_rule: how often these alarms of transformers alarmed somebody / the warnings of that rule, each
    of which does: their calls (meterwatch.one_call) and escalations, those taken back since included.
    calls_over_two_hour_rule: the calls alone. alarms_in_book_over_two_hour_rule: alarms that stand in the book, each
    counted once, those for planning included; alarms_of_load, _heat, _forecast: these by type; alarms_for_planning: how
    many of them were that. calls, escalations: how many.
    """
    result: dict[str, float | None] = {}
    hot = [fault for fault in record.faults if fault.hot_us is not None]
    warnings = [told for told in record.told if told.paged and not told.retracted and told.type in WARNS]
    if hot:
        first_us = [
            min(
                (
                    told.recorded_us
                    for told in warnings
                    if (told.asset_kind, told.asset) == (fault.asset_kind, fault.asset)
                    and overlaps(fault, told, found.tolerance_us)
                ),
                default=FOREVER_US,
            )
            for fault in hot
        ]
        hot_us = [fault.hot_us or 0 for fault in hot]
        rule_us = [FOREVER_US if fault.two_hour_rule_us is None else fault.two_hour_rule_us for fault in hot]
        deadline_us = [at if rule == FOREVER_US else rule for at, rule in zip(hot_us, rule_us, strict=True)]
        leads_min = [(at - told) / 60e6 for at, told in zip(hot_us, first_us, strict=True) if told < FOREVER_US]
        result["hot_faults"] = len(hot)
        result["warned_in_time"] = _share_by(first_us, deadline_us)
        result["warned_before_hot"] = _share_by(first_us, hot_us)
        result["two_hour_rule_before_hot"] = _share_by(rule_us, hot_us)
        result["lead_min_p50"] = percentile(leads_min, 50)
    if by_rule := record.inputs.get("two_hour_rule_alarms"):
        mine = [told for told in record.told if told.type in WARNS and told.asset_kind == "transformer"]
        alarms = [told for told in mine if (told.paged or told.for_planning) and not told.retracted]
        calls, escalations = sum(told.calls for told in mine), sum(told.escalations for told in mine)
        result["alarms_over_two_hour_rule"] = round((calls + escalations) / by_rule, 4)
        result["calls_over_two_hour_rule"] = round(calls / by_rule, 4)
        result["alarms_in_book_over_two_hour_rule"] = round(len(alarms) / by_rule, 4)
        result |= {name: sum(told.type == kind for told in alarms) for name, kind in BY_TYPE.items()}
        result["alarms_for_planning"] = sum(told.for_planning for told in alarms)
        result |= {"calls": calls, "escalations": escalations}
    return result


def _share_by(at_us: Sequence[int], deadline_us: Sequence[int]) -> float:
    """Share of those that are no later than their deadline."""
    return round(sum(at <= limit for at, limit in zip(at_us, deadline_us, strict=True)) / len(at_us), 6)


def _fault_row(fault: Fault) -> dict[str, Any]:
    return {
        "kind": fault.kind,
        "asset_kind": fault.asset_kind,
        "asset": fault.asset,
        "onset_us": fault.onset_us,
        "end_us": fault.end_us,
        "meters": fault.meters,
    }


def _false_row(one: FalsePage) -> dict[str, Any]:
    told = one.alarm
    return {
        "alarm_id": told.alarm_id,
        "type": told.type,
        "asset_kind": told.asset_kind,
        "asset": told.asset,
        "severity": told.severity,
        "onset_us": told.onset_us,
        "recorded_us": told.recorded_us,
        "cleared_us": told.cleared_us,
        "because": one.because,
        "relation": one.relation,
        "false_root": one.false_root,
    }


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
