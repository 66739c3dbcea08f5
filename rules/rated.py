"""What the load of a transformer or feeder means: the ratio b to its rating, and an overload in words for people.

Used by the ring of recent windows and by the windows that have left it, so both say the same of the same loads. Refuses
to know where the loads come from, and which windows are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.episodes import Episode
from meterwatch.topology import Topology
from rules.ladder import Floats, Ints, OverloadProfile, Span
from rules.load import Members, Sums
from rules.seasons import Seasons

US = 1_000_000
EVIDENCE_WINDOWS_MAX = 16


class Rated:
    """The transformers of one topology with their ratings."""

    def __init__(self, topology: Topology, profile: OverloadProfile, members: Members) -> None:
        self._profile = profile
        rated = np.nan_to_num(topology.rated_kva.astype(np.float64))
        self.vah: Floats = np.maximum(rated, 0.0) * (1000 * profile.window_s / 3600)
        """Apparent energy of a window at b = 1; 0: not rated, never judged."""
        names, kva, count = topology.transformer, topology.rated_kva, members.count()
        self.episode = Wording(TRANSFORMER, names, kva, count, profile).episode
        self.reverse = Wording(UPWARDS, names, kva, count, profile.of_reverse).episode

    def load(self, index: Ints, sums: Sums) -> Floats:
        """b of the transformers `index` [windows, transformers]; NaN without a rating."""
        return self.ratio(index, sums.wh, sums.varh)

    def upwards(self, index: Ints, sums: Sums) -> Floats:
        """b of what flows upwards, 0 where nothing does."""
        b = self.load(index, sums)
        return np.where((sums.wh < 0) | np.isnan(b), b, 0.0)

    def ratio(self, index: Ints, wh: Ints, varh: Ints) -> Floats:
        """b of the transformers `index` from their sums [windows, transformers]; NaN without a rating."""
        rated = self.vah[index]
        apparent = np.hypot(wh, varh) * self._profile.loss_factor
        b: Floats = np.divide(apparent, rated, out=np.full(apparent.shape, np.nan), where=rated > 0)
        return b


class Words(NamedTuple):
    """How an overload of one kind of asset is said."""

    asset: str
    now: str
    once: str
    members: str
    """Key of the number of what it supplies, in the evidence."""
    measure: str = "x its {kva:g} kVA"
    number: str = "{:.2f}"
    zero: float = 0.0
    """Said is what b is above it."""

    def said(self, b: float) -> str:
        return self.number.format(b - self.zero)


TRANSFORMER = Words("Transformer", "loaded", "was loaded", "members")
UPWARDS = Words("Transformer", "delivers upwards", "delivered upwards", "members")
PHASE_WORDS = Words(
    "Transformer", "carries on one phase", "carried on one phase", "members", "x a third of its {kva:g} kVA"
)
UNBALANCE_WORDS = Words(
    "Transformer", "unbalanced", "was unbalanced", "members", "beyond the limit of its winding", "{:+.1%}", 1.0
)
FEEDER = Words("Feeder", "loaded", "was loaded", "transformers")


class Wording:
    """Episodes of one kind of asset, for people. rated_kva, members: of each asset."""

    def __init__(
        self, words: Words, names: Sequence[str], rated_kva: NDArray[Any], members: Ints, profile: OverloadProfile
    ) -> None:
        self._words, self._names, self._rated_kva = words, names, rated_kva
        self._members, self._profile, self._seasons = members, profile, Seasons(profile.seasons)

    def episode(self, asset: int, span: Span, first: int, load: Floats, coverage: Floats) -> Episode:
        """Dress an episode for people. load, coverage [windows]: of its asset from window `first` on.

        What of the episode lies before `first` is missing in the evidence only.
        """
        profile, window_us = self._profile, self._profile.window_s * US
        end = len(load) if span.cleared is None else max(span.cleared + 1 - first, 0)
        b, share = load[:end].tolist(), coverage[:end].tolist()
        seen = np.flatnonzero(coverage[:end] >= profile.coverage_min)
        newest = int(seen[-1]) if len(seen) else 0
        shown = [
            {"end_us": (first + i + 1) * window_us, "b": round(b[i], 4), "coverage": round(share[i], 4)}
            for i in range(max(0, newest - EVIDENCE_WINDOWS_MAX + 1, span.onset - first), min(newest + 1, end))
        ]
        level = profile.levels[span.level]
        words, name, rated = self._words, self._names[asset], float(self._rated_kva[asset])
        measure = words.measure.format(kva=rated)
        onset_us, since = span.onset * window_us, clock(span.onset * window_us)
        cleared_us = None if span.cleared is None else (span.cleared + 1) * window_us
        if cleared_us is None:
            lasted = duration((first + newest + 1 - span.onset) * profile.window_s)
            now = f"{words.said(b[newest])} {measure} since {since}"
            summary = (
                f"{words.asset} {name} {words.now} {now} (peak {words.said(span.peak)}), {level.name} for {lasted}"
            )
        else:
            lasted = duration((cleared_us - onset_us) // US)
            upto = f"up to {words.said(span.peak)} {measure} from {since} to {clock(cleared_us)}"
            summary = f"{words.asset} {name} {words.once} {upto}, at worst {level.name}, over after {lasted}"
        evidence: dict[str, Any] = {
            "peak_b": round(span.peak, 4),
            "rated_kva": round(rated, 3),
            "worst_level": profile.levels[span.worst].name,
            words.members: int(self._members[asset]),
            **({"coverage": round(share[newest], 4)} if share else {}),
            "coverage_min": profile.coverage_min,
            "raise_pu": level.raise_pu,
            "hold_s": level.hold_s,
            "clear_pu": level.clear_pu,
            "clear_s": level.clear_s,
            **({"season_scale": self._seasons.scale(span.raised * profile.window_s)} if self._seasons else {}),
            "windows": shown,
        }
        raised_us = (span.raised + 1) * window_us
        seen_us = (first + newest + 1) * window_us if cleared_us is None and len(seen) else None
        return Episode(onset_us, raised_us, cleared_us, level.severity, level.name, summary, evidence, seen_us=seen_us)


def clock(stamp_us: int) -> str:
    return datetime.fromtimestamp(stamp_us // US, UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: int) -> str:
    hours, minutes = divmod(seconds // 60, 60)
    return " ".join(part for part in (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "") if part)
