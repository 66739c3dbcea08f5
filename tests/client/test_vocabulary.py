"""Names of events in other vocabularies: each comes to a code of ours, and a name nobody knows to none."""

from __future__ import annotations

import pytest

from meterwatch.batch import EventCode
from meterwatch.client.vocabulary import NORMALISED, event_codes, event_phases


def test_every_last_gasp_is_a_power_failure_whoever_says_it() -> None:
    names = ["iec:3.26.0.85", "iec:26.26.0.85", "dlms:1", "dlms:99", "698:3011", "698:3106/off", "645:03110001"]
    assert event_codes(names) == [EventCode.POWER_FAIL] * len(names)
    assert event_codes(["iec:26.26.0.216", "dlms:2", "698:3106/on"]) == [EventCode.POWER_RESTORED] * 3


def test_own_names_come_first_and_unknown_ones_are_named() -> None:
    assert event_codes(["mine:7"], {"mine:7": EventCode.TAMPER}) == [EventCode.TAMPER]
    assert event_codes(["dlms:1"], {"dlms:1": EventCode.TAMPER}) == [EventCode.TAMPER]
    with pytest.raises(ValueError, match="dlms:100"):
        event_codes([*NORMALISED, "dlms:100"])


def test_names_of_lost_and_returned_phases_say_which() -> None:
    assert event_phases(["dlms:86", "dlms:87", "dlms:88", "dlms:90", "dlms:91", "dlms:92", "dlms:1"]) == [
        1,
        2,
        4,
        1,
        2,
        4,
        0,
    ]
    assert event_phases(["mine:L2"], {"mine:L2": 2}) == [2]
