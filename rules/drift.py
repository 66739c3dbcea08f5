"""V10 over a local day: how far the clock of a meter is off, from when its reads came. Arrays in, masks out.

A read comes some time after its interval ended: how the meter is reached takes its time (the lag of its mode), and a
clock that is off adds its error to every read alike. So the drift of a meter is the median of arrival less end over its
day, less the median of those who are reached in the same way, and it is one only beyond 60 s and beyond the scatter of
these peers.

What was held back says nothing of a clock. Of the reads that come together only the newest counts, and only if it
comes in step: the time since the arrival before it is half to twice the time between the two ends. A backlog drains
faster than it was measured, and the first read after an outage comes slower: neither is in step, so catching up is no
drift. (One that takes half the time of the outage or more is in step; then the median of the day must stand for the
rest.) For the same reason nothing is quarantined here: a clock 15 min behind and a read that comes 15 min late are the
same thing. A clock that is ahead is found at ingest, by FUTURE and CLOCK_DRIFT.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rules.side_by_side import side_by_side

US = 1_000_000
PEERS_KEPT = 2_000
"""Lags remembered of each way of being reached: the newest, 16 kB."""
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def lags(of: NDArray[np.intp], end_us: Ints, received_us: Ints, rows: int) -> tuple[Floats, Ints]:
    """Median of arrival less end of the reads of each meter-day that came in step, s, NaN: none did; and how many did.

    of, end_us, received_us: measured reads that were never replaced, in any order. rows: meter-days.
    """
    if not _ordered(of, received_us, end_us):
        order = np.lexsort((end_us, received_us, of))
        of, end_us, received_us = of[order], end_us[order], received_us[order]
    newest = np.ones(len(of), np.bool_)
    newest[:-1] = (of[1:] != of[:-1]) | (received_us[1:] != received_us[:-1])
    if not newest.all():
        of, end_us, received_us = of[newest], end_us[newest], received_us[newest]
    came, ended = np.diff(received_us), np.diff(end_us)
    in_step = (of[1:] == of[:-1]) & (ended > 0) & (2 * came >= ended) & (came <= 2 * ended)
    of, lag_us = of[1:][in_step], (received_us - end_us)[1:][in_step]
    samples = np.bincount(of, minlength=rows).astype(np.int64)
    table_us = np.sort(side_by_side(of, lag_us, rows, np.iinfo(np.int64).max), axis=1)
    lag_s = np.full(rows, np.nan)
    some = np.flatnonzero(samples)
    low_us, high_us = table_us[some, (samples[some] - 1) // 2], table_us[some, samples[some] // 2]
    lag_s[some] = (low_us + high_us) / (2 * US)
    return lag_s, samples


def _ordered(of: NDArray[np.intp], received_us: Ints, end_us: Ints) -> bool:
    """By meter-day, arrival and end, as reads stored live are: a tenth of the price of sorting them."""
    later = (received_us[1:] > received_us[:-1]) | ((received_us[1:] == received_us[:-1]) & (end_us[1:] >= end_us[:-1]))
    return bool(((of[1:] > of[:-1]) | ((of[1:] == of[:-1]) & later)).all())


class ModeLags:
    """The newest lag of each meter, by how they are reached: of each way the last PEERS_KEPT learnt.

    What is known is a function of the newest day of each meter, so a restart learns it again from what is stored.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[NDArray[np.int32], Floats]] = {}

    def learn(self, way: Ints, slot: NDArray[np.int32], lag_s: Floats) -> None:
        """Lags of some meters, by number of the way in which each is reached; none of them twice."""
        for one in np.unique(way).tolist():
            mine = way == one
            slots, lags_s = self._kept.get(one, (np.zeros(0, np.int32), np.zeros(0)))
            other = ~np.isin(slots, slot[mine])
            slots, lags_s = np.concatenate((slots[other], slot[mine])), np.concatenate((lags_s[other], lag_s[mine]))
            self._kept[one] = slots[-PEERS_KEPT:], lags_s[-PEERS_KEPT:]

    def usual(self, way: Ints, peers_min: int) -> tuple[Floats, Floats]:
        """Median lag of the peers of each meter and the median deviation from it, s; NaN: too few are known."""
        usual_s, scatter_s = np.full(len(way), np.nan), np.full(len(way), np.nan)
        for one in np.unique(way).tolist():
            _, peers = self._kept.get(one, (None, np.zeros(0)))
            if len(peers) >= peers_min:
                median = np.median(peers)
                usual_s[way == one] = median
                scatter_s[way == one] = np.median(np.abs(peers - median))
        return usual_s, scatter_s


def drifting(drift_s: Floats, scatter_s: Floats, limit_s: Floats, scatters: Floats) -> Mask:
    """V10: off by more than 60 s and more than 4 times the scatter of the peers; NaN: not known, no finding."""
    found: Mask = np.abs(drift_s) > np.maximum(limit_s, scatters * scatter_s)
    return found
