"""The event vocabularies of meters and head-ends, and what they come to here: one code for one thing.

A name is `vocabulary:code`, as the vocabulary writes it. Codes that say two things by a value beside them carry it
after a slash. Sources: IEC 61968-9 end-device event types, DLMS/COSEM and DSMR alarm bits, DL/T 698.45 event objects,
DL/T 645-2007 identifiers. (check) Quoted from memory: compare them with what your devices send, and give yours as
`more`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from meterwatch.batch import EventCode

NORMALISED: Final[Mapping[str, EventCode]] = {
    "iec:3.26.0.85": EventCode.POWER_FAIL,  # meter, power failure
    "iec:26.26.0.85": EventCode.POWER_FAIL,  # communication module, power out: the last gasp
    "iec:26.26.0.216": EventCode.POWER_RESTORED,
    "iec:3.26.0.216": EventCode.POWER_RESTORED,
    "dlms:1": EventCode.POWER_FAIL,
    "dlms:2": EventCode.POWER_RESTORED,
    "dlms:86": EventCode.PHASE_LOSS,  # L1
    "dlms:87": EventCode.PHASE_LOSS,
    "dlms:88": EventCode.PHASE_LOSS,
    "dlms:90": EventCode.PHASE_RETURN,  # L1
    "dlms:91": EventCode.PHASE_RETURN,
    "dlms:92": EventCode.PHASE_RETURN,
    "dlms:99": EventCode.POWER_FAIL,  # last gasp
    "698:3011": EventCode.POWER_FAIL,  # meter, power-down
    "698:3106/off": EventCode.POWER_FAIL,  # terminal
    "698:3106/on": EventCode.POWER_RESTORED,
    "645:03110001": EventCode.POWER_FAIL,
}


def event_codes(names: Sequence[str], more: Mapping[str, EventCode] | None = None) -> list[int]:
    """Our codes of these names, for send_events. `more`: your own names, before these. ValueError names the unknown."""
    known = {**NORMALISED, **(more or {})}
    unknown = sorted({name for name in names if name not in known})
    if unknown:
        raise ValueError(f"event {unknown[0]!r} arrived; expected one of {', '.join(known)}; give others in `more`")
    return [int(known[name]) for name in names]


NAMED_PHASES: Final[Mapping[str, int]] = {
    f"dlms:{first + number}": 1 << number for first in (86, 90) for number in range(3)
}
"""Names that say which phase they are about: bits 1 A (L1), 2 B (L2), 4 C (L3)."""


def event_phases(names: Sequence[str], more: Mapping[str, int] | None = None) -> list[int]:
    """The phases these names are about, for send_events; 0: it does not say. `more`: your own names, before these."""
    known = {**NAMED_PHASES, **(more or {})}
    return [known.get(name, 0) for name in names]
