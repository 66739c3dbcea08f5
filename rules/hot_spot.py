"""HOT_SPOT: the thermal twin of every transformer, stepped through the windows of the overload rule.

Argument. The temperature after a window follows from the loads of at most `Days.reach` windows (rules.twin), and what
is said of a time from the last calm before it (rules.heat). So a change is judged from its own window on:
  - in the few newest windows, by folding those from the state before them (`near`), which everybody has;
  - in an older one, by a Lookback over the loads from the calm before it to the calm after it (rules.heat_past); until
    then it is `late`.
A transformer whose loads have stayed below `safe_pu` for as long as a load is felt cannot be hot, whatever the order of
its loads: it is stepped with all the others and costs nothing else.

Promises: any order and split of reads give the same verdicts, however late they come, and so does a restart.
Refuses to know: the database, alarms, the wall clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.episodes import Episode, Verdict
from meterwatch.errors import ConfigError
from meterwatch.loads import Loads
from meterwatch.topology import Topology
from meterwatch.weather import Weather
from rules.air import air_was
from rules.apart import Owing
from rules.heat import Heat, HeatState, step
from rules.hot_words import RULE, Figures, episode
from rules.late import NEXT_TURN, Late
from rules.overload import Overload
from rules.plates import Plates
from rules.safe_load import reckoned_c, safe_pu
from rules.thermal import Floats, ageing_factor
from rules.twin import Days, HotSpotProfile, Twin

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NEVER = int(np.iinfo(np.int64).max)
UP_TO_NOW = NEVER // 2
"""As the last window that changed: whatever comes, the temperatures are not known yet."""
LATE_DAYS = 45
"""Windows that change longer before the near ones are not judged: the late window. Temperatures go on from window to
window, so years of an old file would be stepped through one by one, and on to today."""


@dataclass(frozen=True, slots=True)
class Present:
    """Of some transformers at the end of the newest window, float64 [n] each where nothing else is said."""

    at_us: int
    load_pu: Floats
    """The last known."""
    unknown_s: Floats
    top_oil_c: Floats
    hot_spot_c: Floats
    ambient_c: Floats
    seconds_to_high: Floats
    """inf: never at the present load."""
    ageing: Floats
    life_today_s: Floats
    """Consumed since 00:00 UTC, seconds at 110 C."""


class HotSpot:
    """The rule. Not thread-safe: one evaluator calls it. It hears of changed cells from `overload` by itself."""

    def __init__(
        self,
        topology: Topology,
        profile: HotSpotProfile,
        overload: Overload,
        weather: Weather | None = None,
    ) -> None:
        self.profile, self.overload, self._topology = profile, overload, topology
        window_s, ring = overload.profile.window_s, overload.profile.ring_windows
        self.days = Days.of(profile, window_s)
        if 86_400 % window_s or self.days.reach + profile.near_windows > ring:
            raise ConfigError(
                [
                    f"{ring} windows of {window_s} s in the ring; {self.days.reach + profile.near_windows} or more "
                    "were expected, whole ones to the day: a day, the warm-up and near_windows"
                ]
            )
        self._n = n = len(topology.transformer)
        self.plates = Plates.of(profile.thermal, profile.types, topology)
        """Whose numbers these are, by day."""
        self.falls_after = -(-profile.clear_s // window_s)
        areas = {area: number for number, area in enumerate(dict.fromkeys(topology.transformer_district))}
        self._areas, self._area_of = (
            list(areas),
            np.array([areas[one] for one in topology.transformer_district], np.intp),
        )
        self._weather = weather or Weather()
        self._air_c = reckoned_c(profile, self._weather)
        self.safe_pu = safe_pu(profile, self.plates, self._air_c)
        """[n]: loads up to this make nobody hot, however long."""

        overload.heard = self.heard
        self._at = -1
        """First window not in the state; -1: nothing is known."""
        self._twin = Twin(profile, self.days, self.plates)
        self._heat = HeatState.cold(n)
        self._stale = np.zeros(n, np.bool_)
        """Its twin does not have all of its loads."""
        self._last_warm = np.full(n, -1, np.int64)
        """Newest window before _at with a load that may make it hot."""
        self._told = np.zeros(n, np.bool_)
        self._touched_from, self._touched_to = np.full(n, NEVER), np.full(n, -1, np.int64)
        rated = overload.rated.vah > 0
        self.late = Late(rated)
        """Windows before _at changed; a Lookback is to judge them."""
        self._before = Late(rated)
        """The same, not sorted out yet: of most a Lookback has nothing to say."""
        self._since: dict[int, int] = {}
        self._ended: dict[int, list[Heat]] = {}
        """What Lookbacks found: from where on, and what was over by _at."""

    @property
    def window_us(self) -> int:
        return self.days.window_s * US

    # Changes in

    def heard(self, cells: Loads) -> None:
        """Note whose cells change; called before they do. Takes all through what would leave the ring unseen."""
        head, newest = self.overload.head, int(cells.window[-1])
        if self._at < 0 and 0 <= head < newest:
            self._begin(head + 1)
        elif 0 <= self._at < newest - self.overload.profile.ring_windows + 1 + self.days.reach:
            self._advance(head + 1)
        if self._at > int(cells.window[0]):
            old = int(np.searchsorted(cells.window, self._at))
            self._before.note(cells.transformer[:old], cells.window[:old], self.overload.turn)
            cells = cells.take(slice(old, None))
            if not len(cells):
                return
        if int(cells.window[0]) == newest:  # nearly always
            self._touched_from[cells.transformer] = np.minimum(self._touched_from[cells.transformer], newest)
            self._touched_to[cells.transformer] = np.maximum(self._touched_to[cells.transformer], newest)
        else:
            np.minimum.at(self._touched_from, cells.transformer, cells.window)
            np.maximum.at(self._touched_to, cells.transformer, cells.window)

    def restore_told(self, transformers: Sequence[int]) -> None:
        """After a restart: alarms of these are known."""
        self._told[list(transformers)] = True

    def reweather(self, weather: Weather) -> None:
        """Take all the readings of the air there are, in place of what was known of them."""
        before, self._weather = self._weather, weather
        air_c = reckoned_c(self.profile, weather)
        if self._at >= 0:
            first, stop = self.overload.tail, self.overload.head + 1
            differs = ~np.isclose(self._air(before, first, stop), self._air(weather, first, stop), rtol=0, atol=0)
            from_window = np.where(differs.any(axis=0), first + np.argmax(differs, axis=0), NEVER)[self._area_of]
            np.minimum(self._touched_from, from_window, out=self._touched_from)
            np.maximum(self._touched_to, np.where(from_window < NEVER, self._at, -1), out=self._touched_to)
        if air_c != self._air_c:
            self._air_c, self.safe_pu = air_c, safe_pu(self.profile, self.plates, air_c)
            if self._at >= 0:
                self._look_for_warm(self._at)

    # Loads and air

    def loads(self, index: Ints, first: int, stop: int) -> Floats:
        """b [windows, transformers]; NaN where it is not known, as in windows outside the ring."""
        ring = self.overload
        inside = slice(min(max(first, ring.tail), stop), max(min(stop, ring.head + 1), first))
        b = np.full((stop - first, len(index)), np.nan)
        if ring.head >= 0 and inside.start < inside.stop:
            b[inside.start - first : inside.stop - first] = ring.known(index, inside.start, inside.stop)
        return b

    def air_of(self, index: Ints, first: int, stop: int) -> Floats:
        """Celsius around these transformers, [windows, transformers]."""
        return self._air(self._weather, first, stop)[:, self._area_of[index]]

    def _air(self, weather: Weather, first: int, stop: int) -> Floats:
        return air_was(self.profile, weather, self._areas, first, stop, self.window_us)

    # The state of all

    def _begin(self, stop: int) -> None:
        """Know all transformers just before the near windows of `stop`, out of the ring."""
        self._at = stop - self.profile.near_windows
        self._twin = self.twin_of(np.arange(self._n), self._at)
        self._stale[:] = False
        self._look_for_warm(self._at)
        warm = (self._last_warm >= 0) | self._told
        self._touched_from[warm] = np.minimum(self._touched_from[warm], self.overload.tail)
        self._touched_to[warm] = np.maximum(self._touched_to[warm], self._at)

    def twin_of(self, index: Ints, at: int) -> Twin:
        """These transformers just before the window `at`, out of the ring."""
        first = self.days.begin_of(at - 1)
        twin = Twin(self.profile, self.days, self.plates.take(index))
        air = self.air_of(index, first, at)
        for window in range(first, at):
            twin.step(window, self.loads(index, window, window + 1)[0], air[window - first])
        return twin

    def _look_for_warm(self, stop: int) -> None:
        everyone = np.arange(self._n)
        for window in range(self.overload.tail, stop):
            warm = self.loads(everyone, window, window + 1)[0] > self.safe_pu
            self._last_warm[warm] = np.maximum(self._last_warm[warm], window)

    def _advance(self, to: int) -> None:
        """Take all to the window `to`: the twin of everybody, and the episodes of who may be hot."""
        if to - self._at > 2 * self.days.reach:  # nobody was heard for days: what the state had is gone
            self._begin(to + self.profile.near_windows)
            return
        everyone = np.arange(self._n)
        for window in range(self._at, to):
            load = self.loads(everyone, window, window + 1)[0]
            self._twin.step(window, load, self.air_of(everyone, window, window + 1)[0])
            self._last_warm[load > self.safe_pu] = window
            hot = np.flatnonzero((self._heat.level > 0) | (self._last_warm > window - self.days.reach))
            if len(hot):
                self._refresh(hot, window + 1)
                some, heat = self._twin.take(hot), self._heat.take(hot)
                _, reached, held = some.levels()
                step(heat, window, self.falls_after, ~np.isnan(load[hot]), reached, held, some.now.hot_spot_c)
                self._heat.put(hot, heat)
        self._at = max(self._at, to)

    def _refresh(self, index: Ints, at: int) -> None:
        """Make the twins of these right before the window `at`; look back at those whose loads have left the ring."""
        index = index[self._stale[index]]
        if not len(index):
            return
        if self.days.begin_of(at - 1) < self.overload.tail:
            for window in (at, UP_TO_NOW):
                self.late.note(index, np.full(len(index), window), NEXT_TURN)
            return
        self._twin.put(index, self.twin_of(index, at))
        self._stale[index] = False

    # Windows before the near ones

    def sort_out(self, now_us: int) -> None:
        """Find who is late by now."""
        if self.overload.head >= 0:
            self._sort_out(self._stop(now_us))

    @property
    def at(self) -> int:
        """First of the near windows."""
        return self._at

    def looked_back(self, index: Ints, twin: Twin, heat: HeatState, since: Ints, ended: dict[int, list[Heat]]) -> None:
        """Take what is so just before the near windows. since: the window after the calm from which all is known."""
        self._twin.put(index, twin)
        self._heat.put(index, heat)
        self._stale[index] = False
        self._touched_from[index] = np.minimum(self._touched_from[index], self._at)
        self._touched_to[index] = np.maximum(self._touched_to[index], self._at)
        for i, transformer in enumerate(index.tolist()):
            self._since[transformer] = int(since[i])
            self._ended[transformer] = ended.get(i, [])

    def _stop(self, now_us: int) -> int:
        return min(self.overload.head + 1, now_us // self.window_us)

    def _sort_out(self, stop: int) -> None:
        """Find who is to be looked back at: what changed before the near windows, and may be hot or was told."""
        if self._at < 0:
            self._begin(stop)
        if stop - self.profile.near_windows - self._at > self.days.reach:
            self._advance(stop - self.profile.near_windows)
        self._passed()
        everybody = old = np.flatnonzero(self._before.last >= 0)
        if not len(old):
            return
        tail, before = self.overload.tail, self._before
        first, last, turn = before.first[old], before.last[old], before.turn[old]
        oldest = self._at - LATE_DAYS * self.days.windows
        old, first, last, turn = (column[last >= oldest] for column in (old, np.maximum(first, oldest), last, turn))
        if not len(old):
            before.judged(everybody)
            return
        self._stale[old[last + self.days.reach >= self._at]] = True
        behind, shown = first < tail, np.maximum(first, tail)
        warm = self.loads(old, int(shown.min()), self._at) > self.safe_pu[old]
        newest = np.where(warm.any(axis=0), self._at - 1 - np.argmax(warm[::-1], axis=0), -1)
        unseen = np.where(behind, np.minimum(last, tail - 1), -1)
        self._last_warm[old] = np.maximum(self._last_warm[old], np.maximum(newest, unseen))
        may = self._told[old] | (self._heat.level[old] > 0) | (self._last_warm[old] > shown - self.days.reach) | behind
        turn = np.where(behind, turn, NEXT_TURN)  # what is still in the ring is of today
        for window in (first, last):
            self.late.note(old[may], window[may], turn[may])
        before.judged(everybody)

    def _passed(self) -> None:
        """What changed and was not judged before _at passed it."""
        index = np.flatnonzero(self._touched_from < self._at)
        last = self._touched_to[index]
        for window in (self._touched_from[index], np.minimum(last, self._at - 1)):
            self._before.note(index, window, self.overload.turn)
        self._touched_from[index] = np.where(last >= self._at, self._at, NEVER)
        self._touched_to[index[last < self._at]] = -1

    def owing(self) -> Owing:
        """What is not told of: all of the ring, and what was changed before it or looked back at."""
        head, tail = self.overload.head, max(self.overload.tail, 0)
        waiting = [(late.first, late.last >= 0) for late in (self.late, self._before)]
        waiting.append((self._touched_from, self._touched_from < tail))
        parts = [(np.flatnonzero(mine), first[mine]) for first, mine in waiting]
        since = np.array(list(self._since.items()), np.int64).reshape(-1, 2)
        asset, window = (np.concatenate(column) for column in zip(*parts, since.T, strict=True))
        return Owing(tail * self.window_us if head >= 0 else NEVER, asset, window * self.window_us)

    def owe(self, from_us: int, asset: Ints, start_us: Ints) -> None:
        """It missed this while it was suspended (rules.apart.Missed). Of the ring all is judged anyway."""
        window_us, tail = self.window_us, self.overload.tail
        self._before.owe(from_us // window_us, asset, start_us // window_us, tail, self.overload.turn)

    def _waits(self, index: Ints) -> Bools:
        """True where what is late changes the temperatures of the near windows: nothing is said of those."""
        waits: Bools = self.late.last[index] >= self._at - self.days.reach
        return waits

    # Verdicts out

    def judge(self, now_us: int) -> list[Verdict]:
        """Verdicts of the transformers whose windows changed since the last call, in rising id.

        Only of those with an episode, or of which one was told. Windows that end after `now_us` wait for a later call,
        and who is to be looked back at waits for that. from_us: 1 us after the start of the near windows, or of what
        was looked back at.
        """
        if self.overload.head < 0:
            return []
        stop = self._stop(now_us)
        self._sort_out(stop)
        index = np.flatnonzero(self._touched_from < stop)
        index = index[~self._waits(index)]
        waiting = self._touched_to[index] >= stop
        self._touched_from[index] = np.where(waiting, stop, NEVER)
        self._touched_to[index[~waiting]] = -1
        verdicts = self._near(index, stop) if len(index) else []
        if stop - self.profile.near_windows > self._at:
            self._advance(stop - self.profile.near_windows)
        return verdicts

    def _may_be_hot(self, index: Ints, load: Floats) -> Bools:
        """load [windows, transformers]: of the near windows."""
        warm = (load > self.safe_pu[index]).any(axis=0) | (self._last_warm[index] > self._at - self.days.reach)
        known = np.isin(index, np.fromiter(self._since, np.int64, len(self._since)))
        may: Bools = warm | (self._heat.level[index] > 0) | self._told[index] | known
        return may

    def _near(self, index: Ints, stop: int) -> list[Verdict]:
        load = self.loads(index, self._at, stop)
        may = self._may_be_hot(index, load)
        self._refresh(index[may], self._at)
        may &= ~self._waits(index)
        index, load = index[may], load[:, may]
        if not len(index):
            return []
        twin, heat, figures = self._twin.take(index), self._heat.take(index), Figures.none(len(index))
        ended = self.fold(twin, heat, index, self._at, load, figures)
        verdicts = []
        for i, transformer in enumerate(index.tolist()):
            heats = self._ended.pop(transformer, []) + ended.get(i, [])
            if heat.level[i]:
                heats.append(heat.heat(i))
            since = self._since.get(transformer)
            if heats or self._told[transformer] or since is not None:  # looked back: what was told of then may be over
                since = self._at if since is None else since
                verdicts.append(self.verdict(transformer, since, self.dressed(transformer, heats, figures, i)))
            self._told[transformer] = bool(heats)
        for transformer in index.tolist():
            self._since.pop(transformer, None)
        return verdicts

    def dressed(
        self, transformer: int, heats: Sequence[Heat], figures: Figures | None = None, i: int = 0
    ) -> tuple[Episode, ...]:
        """Its episodes for people. figures: of row i, of the newest windows; None: none of them lasts."""
        name, rated = self._topology.transformer[transformer], float(self._topology.rated_kva[transformer])
        known = Figures.none(0) if figures is None else figures
        plate = self.plates.take(np.array([transformer]))
        return tuple(
            episode(
                self.profile, plate.shown(0, self.days.day_of(one.onset)), name, rated, one, known, i, self.window_us
            )
            for one in heats
        )  # fmt: skip

    def verdict(self, transformer: int, since: int, episodes: tuple[Episode, ...], until: int | None = None) -> Verdict:
        """Of the windows from `since` on; until: up to this one, None: up to now."""
        until_us = None if until is None else until * self.window_us
        return Verdict(RULE, "transformer", transformer, since * self.window_us + 1, episodes, until_us=until_us)

    def fold(
        self, twin: Twin, heat: HeatState, index: Ints, first: int, load: Floats, figures: Figures | None = None
    ) -> dict[int, list[Heat]]:
        """Take both through the windows from `first` on; returns by row the episodes that were over."""
        air = self.air_of(index, first, first + len(load))
        ended: dict[int, list[Heat]] = {}
        for window, (b, ambient_c) in enumerate(zip(load, air, strict=True), first):
            twin.step(window, b, ambient_c)
            seconds, reached, held = twin.levels()
            known = ~np.isnan(b)
            for i in step(heat, window, self.falls_after, known, reached, held, twin.now.hot_spot_c).tolist():
                ended.setdefault(i, []).append(heat.heat(i, window))
            if figures is not None:
                figures.note(window, known, twin.now, seconds)
        return ended

    # For people

    def present(self, index: Ints, now_us: int) -> Present | None:
        """Of these at the end of the newest window; None: no load is known yet. Changes nothing that is judged."""
        if self._at < 0:
            return None
        self._refresh(index, self._at)
        stop = max(self._stop(now_us), self._at)
        twin = self._twin.take(index)
        air = self.air_of(index, self._at, stop)
        for window, load in enumerate(self.loads(index, self._at, stop), self._at):
            twin.step(window, load, air[window - self._at])
        now = twin.now
        seconds, _, _ = twin.levels()
        return Present(
            stop * self.window_us, now.load_pu, now.unknown_s, now.top_oil_c, now.hot_spot_c, now.ambient_c, seconds,
            ageing_factor(now.hot_spot_c), now.life_s,
        )  # fmt: skip

    def hottest(self, most: int) -> Ints:
        """Transformers with a rating, the hottest first, as they were before the near windows."""
        rated = np.flatnonzero(self.overload.rated.vah > 0)
        return rated[np.argsort(-self._twin.now.hot_spot_c[rated], kind="stable")[:most]]

    @property
    def hot(self) -> int:
        """Transformers in an episode."""
        return int((self._heat.level > 0).sum())

    @property
    def hottest_c(self) -> float:
        """Hot spot of the hottest with a rating, as it was before the near windows; NaN: no load is known."""
        rated = self.overload.rated.vah > 0
        return float(self._twin.now.hot_spot_c[rated].max()) if self._at >= 0 and rated.any() else np.nan
