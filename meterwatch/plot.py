"""Plots as inline SVG: lines on a linear or logarithmic axis, areas, bars. Nothing but text, no library, no script.

Colours and fonts come from the page's style by class (`s0` to `s5` are the series), so that light, dark and paper each
get theirs. Every plot says in words what it shows. Refuses to know what the numbers mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

POINTS_MAX: Final = 600
"""Points of one line; a screen shows no more."""
COLOURS: Final = 6
WIDTH: Final = 640
HEIGHT: Final = 232
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 34
BAR_ROW: Final = 30
UNPRINTABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Controls, marks that turn the direction of what follows, halves of characters."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series: float64 arrays of equal length, x rising; a y that is not finite is a gap."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: int
    broad: bool = False
    """Drawn broad and pale, to be seen under another line."""


@dataclass(frozen=True, slots=True)
class Band:
    """An area between two series, drawn under the lines: float64 arrays of equal length, none of them a gap."""

    name: str
    x: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    colour: int


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasted from x `first` to `last`, in a row of its own or with others of that row's name."""

    row: str
    first: float
    last: float
    colour: int
    says: str
    """Shown when the bar is pointed at."""


def text(value: object) -> str:
    """Anything as text that is safe inside HTML, attributes included, and cannot disturb what stands around it."""
    return escape(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)))


def short(value: float) -> str:
    """A figure for an axis or a tile: 3 significant digits, k, M or G."""
    if not math.isfinite(value):
        return "-"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / (limit if unit != 'k' else 1e3):.3g} {unit}"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def squeeze(y: Sequence[float] | NDArray[Any], how: Literal["mean", "max"]) -> NDArray[np.float64]:
    """At most POINTS_MAX values, mean or maximum of neighbours in equal groups. Gaps are left out; all gaps is one."""
    values = np.asarray(y, np.float64)
    group = -(-len(values) // POINTS_MAX)
    if group <= 1:
        return np.where(np.isfinite(values), values, np.nan)
    padded = np.full(-(-len(values) // group) * group, np.nan)
    padded[: len(values)] = values
    rows = padded.reshape(-1, group)
    there = np.isfinite(rows)
    count = there.sum(axis=1)
    if how == "max":
        result = np.where(there, rows, -np.inf).max(axis=1)
    else:
        result = np.where(there, rows, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, result, np.nan)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from the last one <= low to the first one >= high, 1, 2 or 5 times a power of ten apart."""
    if not high - low > max(1e-9 * max(abs(low), abs(high)), 1e-12):
        high = low + (abs(low) if abs(low) > 1e-9 else 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around a positive range; with 2 and 5 between where there are few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    return [m * 10.0**n for n in range(first, last) for m in steps] + [10.0**last]


def lines(
    title: str,
    series: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    stacked: bool = False,
    limit: tuple[float, str] | None = None,
    limits: Sequence[tuple[float, str]] = (),
    bands: Sequence[Band] = (),
    x_range: tuple[float, float] | None = None,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    note: str = "",
) -> str:
    """A figure with its plot and legend.

    log: y on a logarithmic axis, where values <= 0 are gaps. stacked: areas, each on those before it; gaps count 0.
    limit, limits: dashed levels and their names. bands: under the lines. x_range: what the axis spans, if not what is
    drawn. Several limits are named in the plot, too. x_ticks: places and words, if round numbers would not do.
    """
    limits = [*([limit] if limit else []), *limits]
    drawn = [_positive(one) if log else one for one in series]
    levels = _stack(drawn) if stacked else [one.y for one in drawn]
    shown = np.concatenate([level[np.isfinite(level)] for level in levels] or [np.empty(0)])
    shown = np.concatenate([shown, *(edge for band in bands for edge in (band.low, band.high))])
    if not len(shown):
        return f'<figure><h3>{text(title)}</h3><p class="none">Nothing was recorded.</p></figure>'
    high = max(float(shown.max()), *(at for at, _ in limits if math.isfinite(at)), 0.0)
    y_ticks = log_ticks(float(shown.min()), high) if log else ticks(min(0.0, float(shown.min())), high)
    xs = np.concatenate([*(one.x for one in drawn), *(one.x for one in bands)])
    x_low, x_high = x_range or (float(xs.min()), float(xs.max()))
    if x_ticks is None:
        inside = [at for at in ticks(x_low, x_high, 8) if x_low <= at <= x_high]
        x_ticks = [(at, short(at)) for at in inside]
    to_x = _scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, log)
    parts = _axes(x_ticks, y_ticks, to_x, to_y, x_label, y_label)
    for band in bands:
        area = _area(band.x, band.low, band.high, to_x, to_y)
        parts.append(f'<path class="area faint s{band.colour % COLOURS}" d="{area}"/>')
    below = np.zeros(len(levels[0]) if levels else 0)
    for one, level in zip(drawn, levels, strict=True):
        if stacked:
            parts.append(f'<path class="area s{one.colour % COLOURS}" d="{_area(one.x, below, level, to_x, to_y)}"/>')
            below = level
        else:
            broad = " broad" if one.broad else ""
            parts.append(f'<path class="line s{one.colour % COLOURS}{broad}" d="{_path(one.x, level, to_x, to_y)}"/>')
    parts += [f'<path class="limit" d="M{LEFT} {to_y(at):.1f}H{WIDTH - RIGHT}"/>' for at, _ in limits]
    if len(limits) > 1:
        parts += [
            f'<text x="{WIDTH - RIGHT}" y="{to_y(at) - 3:.1f}" class="end">{text(name)}</text>' for at, name in limits
        ]
    label = f"{title}. " + " ".join(_in_words(one) for one in drawn)
    return (
        f'<figure><h3>{text(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}">'
        f"{''.join(parts)}</svg>{_legend(drawn, limits, bands, note, stacked)}</figure>"
    )


def bars(
    title: str,
    shown: Sequence[Bar],
    *,
    x_range: tuple[float, float],
    x_ticks: Sequence[tuple[float, str]],
    note: str = "",
) -> str:
    """A figure of bars over an axis, a row for each name in the order of appearance. What lies outside is cut off."""
    rows = list(dict.fromkeys(bar.row for bar in shown))
    if not rows:
        return f'<figure><h3>{text(title)}</h3><p class="none">None in this span.</p></figure>'
    height = TOP + BAR_ROW * len(rows) + BOTTOM
    to_x = _scale(*x_range, LEFT, WIDTH - RIGHT)
    floor = height - BOTTOM
    parts = _x_axis(x_ticks, to_x, floor)
    for number, name in enumerate(rows):
        top = TOP + BAR_ROW * number
        parts.append(f'<text x="{LEFT}" y="{top + 9}" class="name">{text(name)}</text>')
        for bar in shown:
            if bar.row != name:
                continue
            left, right = (to_x(min(max(at, x_range[0]), x_range[1])) for at in (bar.first, bar.last))
            parts.append(
                f'<rect class="area s{bar.colour % COLOURS}" x="{left:.1f}" y="{top + 13}" height="9" '
                f'width="{max(right - left, 2):.1f}"><title>{text(bar.says)}</title></rect>'
            )
    label = f"{title}. {len(shown)} bars in {len(rows)} rows."
    said = f"<figcaption>{text(note)}</figcaption>" if note else ""
    return (
        f'<figure><h3>{text(title)}</h3><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(label)}">'
        f"{''.join(parts)}</svg>{said}</figure>"
    )


def _positive(one: Line) -> Line:
    y = np.where(np.isfinite(one.y), one.y, np.nan)
    return replace(one, y=np.where(y > 0, y, np.nan))


def _stack(series: Sequence[Line]) -> list[NDArray[np.float64]]:
    total = np.zeros(len(series[0].x) if series else 0)
    levels = []
    for one in series:
        total = total + np.where(np.isfinite(one.y), np.maximum(one.y, 0), 0)
        levels.append(total)
    return levels


def _scale(low: float, high: float, start: float, stop: float, log: bool = False) -> Callable[[float], float]:
    """Value -> place in the drawing."""
    if log:
        low, high = math.log10(low), math.log10(high)
    span = (high - low) or 1.0
    return lambda value: start + ((math.log10(value) if log else value) - low) / span * (stop - start)


def _axes(
    x_ticks: Iterable[tuple[float, str]],
    y_ticks: Iterable[float],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    x_label: str,
    y_label: str,
) -> list[str]:
    parts = []
    for value in y_ticks:
        at = to_y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" class="end">{text(short(value))}</text>')
    floor = HEIGHT - BOTTOM
    parts += _x_axis(x_ticks, to_x, floor)
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}" class="mid name">{text(x_label)}</text>')
    middle = (TOP + floor) / 2
    parts.append(
        f'<text x="11" y="{middle:.0f}" class="mid name" transform="rotate(-90 11 {middle:.0f})">{text(y_label)}</text>'
    )
    return parts


def _x_axis(x_ticks: Iterable[tuple[float, str]], to_x: Callable[[float], float], floor: float) -> list[str]:
    parts = []
    for value, word in x_ticks:
        at = to_x(value)
        anchor = "end" if at > WIDTH - RIGHT - 12 else "mid"
        parts.append(f'<path class="axis" d="M{at:.1f} {floor}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{floor + 15}" class="{anchor}">{text(word)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {floor}H{WIDTH - RIGHT}"/>')
    return parts


def _path(
    x: NDArray[np.float64], y: NDArray[np.float64], to_x: Callable[[float], float], to_y: Callable[[float], float]
) -> str:
    """Through all points; a gap lifts the pen; a point between gaps is a dot: no length, round caps."""
    parts, pen_down = [], False
    for i, (at, value) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        if not math.isfinite(value):
            pen_down = False
            continue
        parts.append(f"{'L' if pen_down else 'M'}{to_x(at):.1f} {to_y(value):.1f}")
        if not pen_down and (i + 1 == len(y) or not math.isfinite(y[i + 1])):
            parts.append("h0")
        pen_down = True
    return "".join(parts)


def _area(
    x: NDArray[np.float64],
    below: NDArray[np.float64],
    above: NDArray[np.float64],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
) -> str:
    there = [f"{to_x(at):.1f} {to_y(value):.1f}" for at, value in zip(x.tolist(), above.tolist(), strict=True)]
    back = [f"{to_x(at):.1f} {to_y(value):.1f}" for at, value in zip(x.tolist(), below.tolist(), strict=True)]
    return f"M{'L'.join(there)}L{'L'.join(reversed(back))}Z"


def _in_words(one: Line) -> str:
    y = one.y[np.isfinite(one.y)]
    if not len(y):
        return f"{one.name}: nothing recorded."
    return f"{one.name}: median {short(float(np.median(y)))}, from {short(float(y.min()))} to {short(float(y.max()))}."


def _legend(
    series: Sequence[Line], limits: Sequence[tuple[float, str]], bands: Sequence[Band], note: str, stacked: bool
) -> str:  # fmt: skip
    kind = "block" if stacked else "rule"
    keys = [
        f'<span class="key"><i class="{kind} s{one.colour % COLOURS}"></i>{text(one.name)}</span>' for one in series
    ]
    keys += [f'<span class="key"><i class="block s{one.colour % COLOURS}"></i>{text(one.name)}</span>' for one in bands]
    keys += [f'<span class="key"><i class="rule limit"></i>{text(name)}</span>' for _, name in limits]
    said = f" <span>{text(note)}</span>" if note else ""
    return f"<figcaption>{' '.join(keys)}{said}</figcaption>"
