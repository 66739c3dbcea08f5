"""What operators do to an alarm: each action as the transition it makes.

Pure: an alarm and an action give a draft, or the reason why not. Whether the alarm is the one the operator saw is the
book's question, whether the action was done before is the desk's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from alarm.lifecycle import KIND, NEXT, NOT_WHEN_CLEARED, NOT_WHEN_FINISHED, SERVICE_NEXT, SHELF_NEXT, Input
from meterwatch.alarms import Action, Alarm, AssetShelf, Draft, Service, Shelf, TransitionKind
from meterwatch.errors import Rejected

SHELVE_S_MAX: Final = 8 * 3600
"""Nobody is spared longer than a shift. (ISA-18.2 asks for a limit; domain rule)"""
NO_SHELF: Final[dict[str, Any]] = {
    "shelved_until_us": None,
    "shelved_once": False,
    "shelved_by": None,
    "shelved_reason": None,
}
"""Fields of an alarm that is not shelved."""

_K = TransitionKind
_INPUT: Final = {kind: given for given, kind in KIND.items() if given not in (Input.SHELVE_ONCE, Input.EXPIRE)}
ACTIONS: Final = frozenset(
    {
        _K.ACKNOWLEDGED,
        _K.SHELVED,
        _K.UNSHELVED,
        _K.OUT_OF_SERVICE,
        _K.RETURNED_TO_SERVICE,
        _K.COMMENTED,
        _K.ASSIGNED,
    }
)
"""Transitions that an operator makes."""
WITH_REASON: Final = frozenset({_K.SHELVED, _K.OUT_OF_SERVICE, _K.RETURNED_TO_SERVICE, _K.COMMENTED})


def check_action(action: Action) -> None:
    """Rejected unless the action is complete in itself."""
    if action.kind in WITH_REASON and not action.note.strip():
        raise _invalid(action, "note is empty", "a reason, or the text of the comment; give one")
    if action.kind is _K.SHELVED:
        shortest = 0 if action.once else 1
        if not shortest <= action.shelve_s <= SHELVE_S_MAX:
            raise _invalid(action, f"shelve_s is {action.shelve_s}", f"{shortest} to {SHELVE_S_MAX} s (8 h)")
    elif action.shelve_s or action.once:
        raise _invalid(action, "shelve_s or until_normal is set", "neither; they belong to SHELVE")
    if action.assignee and action.kind is not _K.ASSIGNED:
        raise _invalid(action, "assignee is set", "none; it belongs to ASSIGN")


def acted(alarm: Alarm, action: Action, now_us: int) -> Draft:
    """The transition an action makes. Rejected where the lifecycle has none."""
    given = Input.SHELVE_ONCE if action.once else _INPUT[action.kind]
    changes = _changes(alarm, action, given, now_us)
    if (
        changes is None
        or (given in NOT_WHEN_FINISHED and alarm.finished)
        or (given in NOT_WHEN_CLEARED and alarm.cleared_us is not None)
    ):
        raise _impossible(alarm, given)
    return Draft(action.kind, replace(alarm, version=alarm.version + 1, **changes), was=alarm, action=action)


def check_shelf(shelf: AssetShelf) -> None:
    """Rejected unless the shelf is complete in itself."""
    if not shelf.reason.strip():
        raise _bad_shelf("reason is empty", "why; give one")
    if not 0 <= shelf.shelve_s <= SHELVE_S_MAX:
        raise _bad_shelf(f"shelve_s is {shelf.shelve_s}", f"0 to lift it, or up to {SHELVE_S_MAX} s (8 h)")
    if not (shelf.rule or shelf.asset) or bool(shelf.asset) != bool(shelf.asset_kind):
        raise _bad_shelf(
            f"type is {shelf.rule!r}, asset_kind {shelf.asset_kind!r}, asset {shelf.asset!r}",
            "a type, or an asset with its kind, or both",
        )


def under(shelf: AssetShelf) -> dict[str, Any]:
    """Shelf fields of an alarm that begins to page under a shelf over its asset."""
    return {
        "shelved_until_us": shelf.until_us,
        "shelved_once": False,
        "shelved_by": shelf.operator,
        "shelved_reason": shelf.reason,
    }


def _bad_shelf(arrived: str, expected: str) -> Rejected:
    return Rejected("ACTION_INVALID", f"shelf over an asset: {arrived}; expected {expected}")


def expired(alarm: Alarm) -> Draft:
    """The transition of a shelf whose time is over."""
    return Draft(KIND[Input.EXPIRE], replace(alarm, version=alarm.version + 1, **NO_SHELF), was=alarm)


def announced_again(alarm: Alarm, now_us: int) -> Draft:
    """The transition of an alarm that has stood for too long."""
    changes: dict[str, Any] = {"acknowledged_by": None, "acknowledged_us": None, "note": None}
    state = NEXT[alarm.state, Input.RE_ALARM]
    after = replace(alarm, version=alarm.version + 1, state=state, announced_us=now_us, **changes)
    return Draft(KIND[Input.RE_ALARM], after, was=alarm)


def lapsed(alarm: Alarm) -> Draft:
    """The transition of an alarm that is over and that nobody acknowledges any more."""
    state = NEXT[alarm.state, Input.LAPSE]
    return Draft(KIND[Input.LAPSE], replace(alarm, version=alarm.version + 1, state=state), was=alarm)


def shelf_after(alarm: Alarm, inputs: list[Input]) -> dict[str, Any]:
    """What becomes of the shelf fields when this happens to the alarm."""
    shelf = alarm.shelf
    for given in inputs:
        shelf = SHELF_NEXT.get((shelf, given), shelf)
    return NO_SHELF if shelf is Shelf.NOT_SHELVED and alarm.shelf is not shelf else {}


def _changes(alarm: Alarm, action: Action, given: Input, now_us: int) -> dict[str, Any] | None:
    """Fields that change; None: this cannot happen to the alarm as it is."""
    match given:
        case Input.ACKNOWLEDGE:
            state = NEXT.get((alarm.state, given))
            done = {"acknowledged_by": action.operator, "acknowledged_us": now_us, "note": action.note}
            return None if state is None else {"state": state} | done
        case Input.SHELVE | Input.SHELVE_ONCE | Input.UNSHELVE:
            shelf = SHELF_NEXT.get((alarm.shelf, given))
            if shelf is None or shelf is Shelf.NOT_SHELVED:
                return None if shelf is None else NO_SHELF
            return {
                "shelved_until_us": now_us + (action.shelve_s or SHELVE_S_MAX) * 1_000_000,
                "shelved_once": shelf is Shelf.SHELVED_ONCE,
                "shelved_by": action.operator,
                "shelved_reason": action.note,
            }
        case Input.TAKE_OUT | Input.PUT_BACK:
            service = SERVICE_NEXT.get((alarm.service, given))
            if service is None:
                return None
            out = service is Service.OUT_OF_SERVICE
            return {
                "out_of_service_by": action.operator if out else None,
                "out_of_service_reason": action.note if out else None,
            }
        case Input.ASSIGN:
            return {"assigned_to": action.assignee or None}
        case _:
            return {}


def _invalid(action: Action, arrived: str, expected: str) -> Rejected:
    return Rejected("ACTION_INVALID", f"action {action.kind.value}: {arrived}; expected {expected}")


def _impossible(alarm: Alarm, given: Input) -> Rejected:
    if given is Input.ACKNOWLEDGE:
        return Rejected(
            "NOT_ACKNOWLEDGEABLE",
            f"alarm {alarm.alarm_id} is {alarm.state.value}; only UNACK_ACTIVE and RTN_UNACK can be acknowledged",
        )
    return Rejected(
        "ACTION_IMPOSSIBLE",
        f"alarm {alarm.alarm_id} is {alarm.state.value}, {alarm.shelf.value}, {alarm.service.value}; "
        f"{given.name} does not apply to that; docs/alarms.md shows what does",
    )
