"""The page of a soak: what should be flat, drawn over time. One HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.look import STYLE
from meterwatch.plot import Line, lines, short, squeeze, text

HELD: Final = ("descriptors", "threads", "connections")


def page(result: Mapping[str, Any]) -> str:
    """The whole file from what loadtest.soak.run returns."""
    figures, problems = result["figures"], result["problems"]
    verdict = "failed" if problems else "passed"
    said = "".join(f"<li>{text(one)}</li>" for one in problems) or "<li>nothing lost, nothing grown</li>"
    rows = "".join(
        f'<tr><th>{text(key)}</th><td class="n">{text(short(value))}</td></tr>' for key, value in figures.items()
    )
    about = f"{result['at']}, {result['seconds']:.0f} s, commit {result['commit']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Soak: {verdict}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>Soak: {verdict}</h1><p class="soft">{text(about)}</p>'
        f'<div class="verdict {verdict}"><ul>{said}</ul></div>'
        f'<div class="plots">{"".join(_plots(result))}</div>'
        f"<h2>Figures</h2><table>{rows}</table></main></body></html>\n"
    )


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
        lines("Memory of the service", [Line("resident", minutes, _column(looks, "rss_mb"), 0)], x_label="minutes",
              y_label="MB"),
        lines("Held open", held, x_label="minutes", y_label="count"),
        lines("Batch due to acknowledged", latency, x_label="minutes", y_label="ms", log=True),
    ]  # fmt: skip


def _column(rows: Sequence[Mapping[str, float]], key: str) -> NDArray[np.float64]:
    return squeeze([row[key] for row in rows], "mean")
