"""CONTRACT in the service: what it must know of the past after a start, and the stored reads it asks for.

Promise: after `begin` the rule answers as if it had seen every stored read. A failure of the database leaves what is
owed as it was. Knows nothing of the ladder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from meterwatch.alarms import Alarm
from meterwatch.batch import ReadChange
from meterwatch.clock import US
from meterwatch.topology import Topology
from meterwatch.user_judging import judged
from rules.contract import RULE, Contract
from storage.evidence import EvidenceStore
from storage.history import History


class StoredDemand:
    """meterwatch.user_judging.StoredRows over the stored reads of meters."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._store = EvidenceStore(history.pool)

    async def oldest_us(self) -> int:
        """No read ends before it."""
        return (await self._store.bounds_us())[0]

    async def rows(self, assets: NDArray[np.int32], from_us: int, to_us: int) -> Sequence[ReadChange]:
        """Stored reads of these meters."""
        return [change async for change in self._history.reads_between(from_us + 1, to_us + 1, assets)]


async def judge_touched(contract: Contract, history: History) -> None:
    """Judge what was touched. Raises StorageUnavailable: then call it again."""
    await judged(contract, StoredDemand(history))


async def begin(contract: Contract, history: History, topology: Topology, book: Iterable[Alarm]) -> None:
    """Tell a new rule what is stored; batches not evaluated and alarms that last are judged with the next evaluation.

    Raises StorageUnavailable.
    """
    store = EvidenceStore(history.pool)
    told = await store.told_by(RULE)
    _, newest_us = await store.bounds_us()
    contract.begin(newest_us, told[told < topology.slots])
    if not contract.watches:
        return
    slot, end_us = await store.owed()
    mine = contract.concerns(slot)
    slot, end_us = slot[mine], end_us[mine]
    contract.touch(slot, end_us - topology.interval_s[slot].astype(np.int64) * US + 1, end_us)
    for alarm in book:
        if alarm.rule == RULE and alarm.lasts:
            span = (np.array([us], np.int64) for us in (alarm.onset_us + 1, max(newest_us, alarm.raised_us)))
            contract.touch(np.array([alarm.asset_id], np.int32), *span)
