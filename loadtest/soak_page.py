"""The page of a soak: what should be flat, drawn over time. One HTML file that needs nothing else, or one SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.look import STYLE
from meterwatch.plot import HEIGHT, WIDTH, Line, lines, short, squeeze, text

HELD: Final = ("descriptors", "threads", "connections")
_HEAD: Final = 24
"""Height of a plot's title in the picture."""


def page(result: Mapping[str, Any]) -> str:
    """The whole file from what loadtest.soak.run returns."""
    figures, problems = result["figures"], result["problems"]
    verdict = "failed" if problems else "passed"
    said = "".join(f"<li>{text(one)}</li>" for one in problems) or "<li>nothing lost, nothing grown</li>"
    rows = "".join(
        f'<tr><th>{text(key)}</th><td class="n">{text(short(value))}</td></tr>' for key, value in figures.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Soak: {verdict}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>Soak: {verdict}</h1><p class="soft">{text(_about(result))}</p>'
        f'<div class="verdict {verdict}"><ul>{said}</ul></div>'
        f'<div class="plots">{"".join(_plots(result))}</div>'
        f"<h2>Figures</h2><table>{rows}</table></main></body></html>\n"
    )


def picture(result: Mapping[str, Any]) -> str:
    """The plots below each other, for documents that show no HTML."""
    made = [plot for plot in _plots(result) if "<svg " in plot]
    parts = []
    for number, plot in enumerate(made):
        top = number * (_HEAD + HEIGHT)
        title = plot[plot.index("<h3>") + 4 : plot.index("</h3>")]
        drawn = plot[plot.index("<svg ") : plot.index("</svg>") + 6]
        parts.append(f'<text class="name" x="8" y="{top + 17}">{title}</text>')
        parts.append(drawn.replace("<svg ", f'<svg y="{top + _HEAD}" width="{WIDTH}" height="{HEIGHT}" ', 1))
    style = f"{STYLE} svg{{background:var(--paper);font-family:system-ui,sans-serif}} text.name{{fill:var(--ink)}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(made) * (_HEAD + HEIGHT)}" role="img">'
        f"<title>{text(_about(result))}</title><style>{style}</style>{''.join(parts)}</svg>\n"
    )


def _about(result: Mapping[str, Any]) -> str:
    return f"{result['at']}, {result['seconds']:.0f} s, commit {result['commit']}"


def _plots(result: Mapping[str, Any]) -> list[str]:
    looks, slices = result["looks"], result["slices"]
    minutes = _column(looks, "at_s") / 60
    held = [Line(name, minutes, _column(looks, name), colour) for colour, name in enumerate(HELD)]
    over = _column(slices, "at_s") / 60
    latency = [
        Line(name, over, _column(slices, key), colour)
        for colour, (name, key) in enumerate((("p50", "ack_ms_p50"), ("p99", "ack_ms_p99")))
    ]
    return [
        lines("Memory of the service, MB", [Line("resident", minutes, _column(looks, "rss_mb"), 0)], x_label="minutes",
              y_label="MB"),
        lines(f"Held open: {', '.join(HELD)}", held, x_label="minutes", y_label="count"),
        lines("Batch due to acknowledged: p50 and p99", latency, x_label="minutes", y_label="ms", log=True),
    ]  # fmt: skip


def _column(rows: Sequence[Mapping[str, float]], key: str) -> NDArray[np.float64]:
    return squeeze([row[key] for row in rows], "mean")
