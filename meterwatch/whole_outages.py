"""From when on a group of meters is judged, so that no outage told is seen from its middle.

Who is judged from some moment on has every outage told since confirmed or taken back. Of one that began before and
lasted then the votes hold only the end, and it would be taken back: so the votes of before it are wanted too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meterwatch.clock import US
from rules.engine import MARGIN_S, Engine, Group, Wanted
from storage.history import History


async def from_before_outages(engine: Engine, history: History, now_us: int) -> list[Wanted]:
    """What the engine wants. Raises StorageUnavailable."""
    asked = engine.wanted()
    while asked:
        onsets_us = await _around(engine, history, asked)
        earlier = {
            group for group, onset_us in onsets_us.items() if engine.reach_back(group, onset_us - MARGIN_S * US, now_us)
        }
        asked = [one for one in engine.wanted() if one.group in earlier]
    return engine.wanted()


async def _around(engine: Engine, history: History, asked: Sequence[Wanted]) -> dict[Group, int]:
    """When the first outage began that lasted when the votes of a group would begin; only groups with one."""
    found: dict[Group, int] = {}
    assets = [(kind, one, asset) for one in asked for kind, asset in engine.assets(one)]
    for kind in sorted({kind for kind, *_ in assets}):
        mine = [(one, asset) for of_kind, one, asset in assets if of_kind == kind]
        owner = np.repeat(np.arange(len(mine)), [len(asset) for _, asset in mine])
        from_us = np.array([one.from_us for one, _ in mine], np.int64)[owner]
        onset_us = await history.outages_around(kind, np.concatenate([asset for _, asset in mine]), from_us)
        for at in np.flatnonzero(onset_us < from_us):
            group = mine[owner[at]][0].group
            found[group] = min(found.get(group, int(onset_us[at])), int(onset_us[at]))
    return found
