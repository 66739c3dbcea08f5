"""One transformer as a page: load with its forecast, coverage, temperatures and alarms over time.

Promises: one HTML file that needs nothing else: no script, no outside resource (its own policy forbids both), every
text escaped. What is not known is a gap in the line, never made up. Refuses to know where the figures come from.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.look import STYLE
from meterwatch.plot import POINTS_MAX, Band, Bar, Line, bars, lines, short, squeeze, text

US: Final = 1_000_000
TICKS_ABOUT: Final = 8
STEPS_H: Final = (1, 2, 3, 6, 12, 24, 48, 168, 336)
COLOUR_OF: Final = {"OVERLOAD": 1, "OUTAGE": 4, "FORECAST_OVERLOAD": 3}
Floats = NDArray[np.float64]


def transformer_page(name: str, curve: Any, forecast: Any | None, zone: tzinfo = UTC) -> str:
    """The whole file. curve: a GetCurveResponse; forecast: a GetForecastResponse that follows it, or None."""
    x = _hours(curve.first_end_us, curve.window_s, len(curve.kva))
    if not len(x):
        return _html(name, f"<h1>Transformer {text(name)}</h1><p class='none'>The span holds no whole window.</p>")
    ahead = _hours(forecast.first_end_us, forecast.step_s, len(forecast.p50_kva)) if forecast else np.zeros(0)
    span = float(x[0]), float(ahead[-1]) if len(ahead) else float(x[-1])
    axis: dict[str, Any] = {"x_range": span, "x_ticks": _ticks(*span, zone)}
    kva = np.asarray(curve.kva, np.float64)
    plots = [
        _load(x, kva, curve, ahead, forecast, axis),
        _coverage(x, curve, axis),
        _temperature(x, curve, ahead, forecast, axis),
        _alarms(curve, axis),
    ]
    head = (
        f"<h1>Transformer {text(name)}</h1><p class='soft'>{_moment(curve.first_end_us, zone)} to "
        f"{_moment(curve.first_end_us + (len(kva) - 1) * curve.window_s * US, zone)}, rated {curve.rated_kva:g} kVA</p>"
    )
    return _html(
        name,
        f"{head}{_tiles(kva, curve, forecast, zone)}<div class='plots'>{''.join(plots)}</div>{_listed(curve, zone)}",
    )


def _load(x: Floats, kva: Floats, curve: Any, ahead: Floats, forecast: Any | None, axis: dict[str, Any]) -> str:
    series = [Line("load", *_thin(x, kva, "max"), 0)]
    bands = []
    if forecast:
        p10, p50, p90 = (np.asarray(one, np.float64) for one in (forecast.p10_kva, forecast.p50_kva, forecast.p90_kva))
        series.append(Line(f"forecast, median ({forecast.forecaster.lower().replace('_', ' ')})", ahead, p50, 1))
        bands.append(Band("80 % of past errors", ahead, p10, p90, 1))
    limits = [
        (curve.rated_kva * at, name) for at, name in ((1.0, "rating"), (0.8, "80 %"), (1.3, "130 %")) if curve.rated_kva
    ]
    note = "Mean of each quarter-hour; a gap: nothing arrived. The most of neighbours where there are many."
    return lines("Load", series, x_label="", y_label="kVA", limits=limits, bands=bands, note=note, **axis)


def _coverage(x: Floats, curve: Any, axis: dict[str, Any]) -> str:
    share = 100 * np.asarray(curve.coverage, np.float64)
    limit = (100 * curve.coverage_min, "needed for alarms")
    return lines(
        "Coverage", [Line("of the expected reads", *_thin(x, share, "mean"), 2)], x_label="", y_label="%", limit=limit,
        **axis,
    )  # fmt: skip


def _temperature(x: Floats, curve: Any, ahead: Floats, forecast: Any | None, axis: dict[str, Any]) -> str:
    series = [
        Line("hot spot", *_thin(x, np.asarray(curve.hot_spot_c, np.float64), "max"), 4),
        Line("top oil", *_thin(x, np.asarray(curve.top_oil_c, np.float64), "max"), 5),
    ]
    if forecast:
        series.append(Line("hot spot with the median forecast", ahead, np.asarray(forecast.hot_spot_c, np.float64), 1))
    limits = [(120.0, "120 C"), (140.0, "140 C"), (160.0, "160 C")]
    air = f"{min(curve.air_c):.0f} to {max(curve.air_c):.0f}" if curve.air_c else f"{curve.ambient_c:g}"
    note = f"Computed from the load, not measured; air {air} C. Unknown load: the last known goes on."
    return lines("Temperature", series, x_label="", y_label="C", limits=limits, note=note, **axis)


def _alarms(curve: Any, axis: dict[str, Any]) -> str:
    shown = [
        Bar(
            alarm.type, alarm.onset_us / US / 3600,
            alarm.cleared_us / US / 3600 if alarm.HasField("cleared_us") else axis["x_range"][1],
            COLOUR_OF.get(alarm.type, 0), f"{alarm.level}: {alarm.summary}",
        )
        for alarm in curve.alarm
    ]  # fmt: skip
    return bars("Alarms", shown, note="An alarm that lasts goes on to the right edge.", **axis)


def _tiles(kva: Floats, curve: Any, forecast: Any | None, zone: tzinfo) -> str:
    known = kva[np.isfinite(kva)]
    tiles = [("rating", f"{curve.rated_kva:g} kVA")]
    if len(known):
        tiles.append(("highest load", f"{short(float(known.max()))} kVA"))
        if curve.rated_kva:
            tiles.append(("of the rating", f"{known.max() / curve.rated_kva:.0%}"))
    tiles.append(("hottest hot spot", f"{max(curve.hot_spot_c):.0f} C"))
    if forecast:
        tiles.append(("forecast made", _moment(forecast.made_us, zone)))
        tiles.append(("chance of an overload alarm", f"{forecast.overload_chance:.0%}"))
        tiles.append(("chance of a hot spot above 140 C", f"{forecast.p_hot[-1]:.0%}"))
    shown = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in tiles)
    return f'<dl class="tiles">{shown}</dl>'


def _listed(curve: Any, zone: tzinfo) -> str:
    if not curve.alarm:
        return ""
    rows = "".join(
        f"<tr><td>{text(one.type)}</td><td>{text(one.level)}</td><td>{_moment(one.onset_us, zone)}</td>"
        f"<td>{_moment(one.cleared_us, zone) if one.HasField('cleared_us') else 'lasts'}</td>"
        f"<td>{text(one.summary)}</td></tr>"
        for one in curve.alarm
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("type", "level", "from", "to", "what"))
    return f"<h2>Alarms</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _html(name: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Transformer {text(name)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _thin(x: Floats, y: Floats, how: Any) -> tuple[Floats, Floats]:
    """At most POINTS_MAX points of both."""
    return (x, np.where(np.isfinite(y), y, np.nan)) if len(x) <= POINTS_MAX else (squeeze(x, "mean"), squeeze(y, how))


def _hours(first_us: int, step_s: int, count: int) -> Floats:
    return (first_us / US + step_s * np.arange(count)) / 3600


def _ticks(first_h: float, last_h: float, zone: tzinfo) -> list[tuple[float, str]]:
    """Full hours or days by the zone's clock, about TICKS_ABOUT of them."""
    step = next((one for one in STEPS_H if (last_h - first_h) / one <= TICKS_ABOUT), STEPS_H[-1])
    begin = datetime.fromtimestamp(first_h * 3600, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    found = []
    for n in range(int((last_h - first_h + 24) // step) + 2):
        at = begin + timedelta(hours=n * step)
        hour = at.timestamp() / 3600
        if first_h <= hour <= last_h:
            found.append((hour, at.strftime("%m-%d") if step >= 24 or at.hour == 0 else at.strftime("%H:%M")))
    return found


def _moment(stamp_us: int, zone: tzinfo) -> str:
    return datetime.fromtimestamp(stamp_us / US, zone).strftime("%Y-%m-%d %H:%M %Z")
