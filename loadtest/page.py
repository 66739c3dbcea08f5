"""The report of a run: one HTML file that needs nothing else, for a screen by day or night and for paper.

Promises: no script, no outside resource (its own policy forbids both), every text of the record escaped, under 500 kB
for an hour's run. What the record does not hold is left out, never made up. Refuses to judge beyond what the record
says: a run passed if nothing is in `problems` and every required limit held.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from loadtest.match import match
from loadtest.record import Record, Second
from loadtest.score import score
from loadtest.timeline import clip, moment, span, timeline
from meterwatch.look import STYLE
from meterwatch.plot import Line, lines, short, squeeze, text

LISTED_MAX: Final = 50
"""Rows of the lists of missed faults and false alarms; the JSON file has all."""
UNFOLDED_MAX: Final = 12
"""Lists longer than this are folded."""
VALUE_CHARS_MAX: Final = 400
PROCESSES: Final = ("postgres", "service", "driver")
"""Order of the CPU areas, from below; others follow by name."""
MEANING: Final = {
    "recall": "true faults that were told",
    "precision": "pages that told of a fault",
    "faults": "true faults",
    "found": "faults told by an alarm of their own",
    "pages": "alarms that paged",
    "pages_per_fault": "pages per true fault",
    "time_to_root_s_p50": "onset of an outage above a meter to its alarm, median",
    "time_to_root_s_p95": "the same, 95 of 100",
    "time_to_meter_s_p50": "onset of a single meter's outage to its alarm, median",
    "time_to_meter_s_p95": "the same, 95 of 100",
    "false_roots": "outage pages for an asset that had supply",
    "false_roots_meter": "those of them for a single meter",
    "false_roots_per_10k_day": "false roots per 10,000 transformers and simulated day",
    "cleared_late": "alarms that stood long after their fault",
    "cleared_early": "alarms cleared while their fault went on",
    "clear_s_p50": "end of a fault to the clear, median",
    "clear_s_p95": "the same, 95 of 100",
    "hot_faults": "true faults that pass 140 C",
    "warned_in_time": "true 140 C exceedances warned of no later than by the two-hour rule",
    "warned_before_hot": "the same, warned of no later than the 140 C",
    "two_hour_rule_before_hot": "the same, by the two-hour rule",
    "lead_min_p50": "first warning to the 140 C, median, minutes",
    "alarms_over_two_hour_rule": "alarms for people, of load and heat of transformers, over the two-hour rule's",
    "calls_over_two_hour_rule": "of these the first for a transformer at a time, over the same",
    "alarms_in_book_over_two_hour_rule": "alarms in the book, whether or not they called anybody, over the same",
    "calls": "how often people were called to a transformer",
    "escalations": "how often they were told of something graver there meanwhile",
    "alarms_of_load": "alarms of overload of transformers in the book",
    "alarms_of_heat": "of their temperature",
    "alarms_of_forecast": "of forecasts of either",
    "alarms_for_planning": "of all these, those that call nobody",
    "tolerance_s": "tolerance in time when pairing",
}


def page(record: Record) -> str:
    """The whole file. Computes the score if the record has none."""
    judged = record.score or score(record)
    why = reasons(record)
    verdict = "failed" if why else "passed"
    scheduled = record.rates.get("scheduled_reads_per_s")
    sections = [
        f"<h1>Load test {text(record.scenario)}: {verdict}</h1>",
        f'<p class="soft">{text(record.started_at)}, {span(record.seconds)}, seed {text(record.seed)}, '
        f"commit {text(record.commit)}</p>",
        _verdict(record, why),
        _tiles(record, judged),
        _required(record),
        "<h2>Over time</h2>" if record.series else "",
        f'<div class="plots">{"".join(_plots(record, scheduled))}</div>',
        _alarms(record, judged),
        "<h2>Figures</h2>",
        _figures(record),
        "<h2>What was run</h2>",
        _what(record),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Load test {text(record.scenario)}: {verdict}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def reasons(record: Record) -> list[str]:
    """Why the run failed: its problems, and each required limit that did not hold and is not among them yet."""
    why = list(record.problems)
    for one in record.required:
        limit = str(one.get("limit"))
        if not one.get("ok") and not any(limit in problem for problem in why):
            why.append(f"required {limit}, measured {_value(one.get('value'))}")
    return why


def _verdict(record: Record, why: Sequence[str]) -> str:
    if why:
        return (
            f'<div class="verdict failed"><strong>Failed</strong><ul>{"".join(f"<li>{text(one)}</li>" for one in why)}'
            "</ul></div>"
        )
    kept = f"required limits held: {len(record.required)}" if record.required else "no limit was required"
    return f'<div class="verdict"><strong>Passed</strong>: nothing went wrong, {kept}.</div>'


def _tiles(record: Record, judged: Mapping[str, Any]) -> str:
    seconds = judged.get("time_to_root_s_p50")
    tiles = [
        ("reads acknowledged per second", _number(record.rates.get("acked_reads_per_s"))),
        ("ack latency p99", _with_unit(record.ack_ms.get("p99"), "ms")),
        ("alarm latency p99", _with_unit(record.alarm_ms.get("p99"), "ms")),
        ("generator behind, worst", span(record.behind_s_max) if math.isfinite(record.behind_s_max) else "-"),
        ("recall", _share(judged.get("recall"))),
        ("precision", _share(judged.get("precision"))),
        ("onset to outage alarm, median", "-" if seconds is None else span(seconds)),
        ("pages per true fault", _number(judged.get("pages_per_fault"))),
        ("140 C warned of in time", _share(judged.get("warned_in_time"))),
        ("alarms over the two-hour rule's", _number(judged.get("alarms_over_two_hour_rule"))),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in tiles if value != "-")
    return f'<dl class="tiles">{shown}</dl>' if shown else ""


def _required(record: Record) -> str:
    if not record.required:
        return ""
    rows = [
        (one.get("limit"), _value(one.get("value")), ("good", "held") if one.get("ok") else ("bad", "not held"))
        for one in record.required
    ]
    body = "".join(
        f'<tr><th scope="row">{text(limit)}</th><td class="n">{text(value)}</td><td class="{look}">{word}</td></tr>'
        for limit, value, (look, word) in rows
    )
    return (
        '<h2>Required limits</h2><table><thead><tr><th scope="col">limit</th><th scope="col" class="n">measured</th>'
        f'<th scope="col">outcome</th></tr></thead><tbody>{body}</tbody></table>'
    )


def _plots(record: Record, scheduled: float | None) -> Iterable[str]:
    if series := record.series:
        seconds = _column(series, "at_s")
        x = squeeze(seconds, "mean")

        def line(name: str, field: str, colour: int, how: Any = "mean", scale: float = 1.0) -> Line:
            return Line(name, x, squeeze(_column(series, field) * scale, how), colour)

        each = "" if len(x) == len(seconds) else f"Each point: {span((seconds[-1] - seconds[0]) / max(len(x) - 1, 1))}."
        axis = "seconds since the first send"
        limit = (scheduled, "scheduled") if scheduled else None
        rate = [replace(line("sent", "reads_sent", 0), broad=True), line("acknowledged", "reads_acked", 1)]
        yield lines("Reads per second", rate, x_label=axis, y_label="reads/s", limit=limit, note=each)
        acks = [
            line("p50", "ack_ms_p50", 2),
            line("p99", "ack_ms_p99", 0, "max"),
            line("largest", "ack_ms_max", 1, "max"),
        ]
        said = "From the scheduled send. "
        yield lines("Ack latency", acks, x_label=axis, y_label="ms", log=True, note=said + each)
    yield _percentiles(record)
    if series:
        names = {name for second in series for name in second.cpu_share}
        order = [name for name in PROCESSES if name in names] + sorted(names - set(PROCESSES))
        shares = [
            Line(name, x, squeeze([second.cpu_share.get(name, math.nan) for second in series], "mean"), n)
            for n, name in enumerate(order)
        ]
        cores = record.machine.get("cores")
        there = (float(cores), f"{cores} cores") if isinstance(cores, int | float) else None
        yield lines("CPU by process", shares, x_label=axis, y_label="cores", stacked=True, limit=there)
        rss = [second.service_rss_mb or math.nan for second in series]  # 0: not seen
        memory = [Line("service", x, squeeze(rss, "max"), 3)]
        yield lines("Memory of the service", memory, x_label=axis, y_label="RSS, MB")
        behind = [line("worst stream", "behind_s", 4, "max")]
        note = "How late the generator itself was; 0 is on schedule."
        yield lines("Generator behind its schedule", behind, x_label=axis, y_label="s", note=note)
        if any(second.alarms for second in series):
            alarms = [line("since the start", "alarms", 1, "max")]
            yield lines("Alarms paged", alarms, x_label=axis, y_label="alarms")


def _percentiles(record: Record) -> str:
    """Ack latency over percentile, the tail drawn out: each step to the right has ten times fewer acks."""
    title = "Ack latency by percentile"
    if not record.histogram:
        return ""
    try:
        found = HdrHistogram.decode(record.histogram)
    except (ValueError, TypeError, zlib.error, HdrCookieException, HdrLengthException) as error:
        return f'<figure><h3>{title}</h3><p class="none">The histogram cannot be read: {text(error)}</p></figure>'
    total = found.get_total_count()
    if not total:
        return ""
    decades = max(1.0, math.log10(total))
    x = np.linspace(0.0, decades, 160)
    percents = (100 * (1 - 10.0**-x)).tolist()
    by_percent = found.get_percentile_to_value_dict(percents)
    ms = np.array([by_percent[one] for one in percents], np.float64) / 1000
    words = [(float(n), "0" if n == 0 else f"{100 * (1 - 10.0**-n):.10g}%") for n in range(int(decades) + 1)]
    words.insert(1, (math.log10(2), "50%"))
    note = f"{total:,} batches, largest {short(found.get_max_value() / 1000)} ms."
    curve = [Line("ack latency", x, ms, 0)]
    return lines(title, curve, x_label="percentile", y_label="ms", log=True, x_ticks=words, note=note)


def _alarms(record: Record, judged: Mapping[str, Any]) -> str:
    if not record.faults and not record.told:
        return '<h2>Alarms against truth</h2><p class="none">No fault was injected and no alarm was told.</p>'
    plain = [(key, MEANING[key], _value(judged[key])) for key in MEANING if key in judged]
    plain += [
        (key, "", _value(value))
        for key, value in judged.items()
        if key not in MEANING and isinstance(value, int | float)
    ]
    parts = ["<h2>Alarms against truth</h2>", timeline(record, match(record)), '<div class="pair">']
    parts.append(_table("Score", ("figure", "meaning", "value"), plain, numbers={2}))
    if kinds := judged.get("by_kind"):
        keys = list(dict.fromkeys(key for kind in kinds.values() for key in kind))
        rows = [(key, *(_value(kind.get(key)) for kind in kinds.values())) for key in keys]
        parts.append(_table("By kind", ("figure", *kinds), rows, numbers=set(range(1, len(kinds) + 1))))
    parts.append("</div>")
    if missed := judged.get("missed"):
        rows = [
            (f"{one['kind']} {one['asset_kind']}", one["asset"], moment(one["onset_us"]), _value(one["meters"]))
            for one in missed[:LISTED_MAX]
        ]
        parts.append(_listed("Missed faults", len(missed), ("fault", "asset", "onset, UTC", "meters"), rows, {3}))
    if false := judged.get("false"):
        rows = [
            (f"{one['type']} {one['asset_kind']}", one["asset"], moment(one["onset_us"]), one["because"])
            for one in false[:LISTED_MAX]
        ]
        parts.append(
            _listed("False pages", len(false), ("alarm", "asset", "onset, UTC", "why it is false"), rows, set())
        )
    return "".join(parts)


def _listed(what: str, total: int, head: Sequence[str], rows: Sequence[Sequence[object]], numbers: set[int]) -> str:
    more = f", the first {len(rows)}; the JSON file has all" if total > len(rows) else ""
    caption = f"{what}: {total:,}{more}"
    unfolded = " open" if total <= UNFOLDED_MAX else ""
    return f"<details{unfolded}><summary>{caption}</summary>{_table(caption, head, rows, numbers=numbers)}</details>"


def _figures(record: Record) -> str:
    tables: list[tuple[str, Mapping[str, Any]]] = [
        ("Totals", record.totals),
        ("Rejected, by reason", record.rejected_reasons),
        ("Rates", record.rates),
        ("Ack latency from the scheduled send, ms", record.ack_ms),
        ("Ack latency of events, ms", record.event_ms),
        ("Alarm latency, ms", record.alarm_ms),
        ("CPU-seconds", record.cpu_s),
    ]
    shown = [_pairs(caption, values, numbers=True) for caption, values in tables if values]
    return f'<div class="pair">{"".join(shown)}</div>'


def _what(record: Record) -> str:
    known = {"scenario": record.scenario, "seed": record.seed, "commit": record.commit, "started": record.started_at}
    tables = [("Run", known), ("Inputs", record.inputs), ("Machine", record.machine), ("Versions", record.versions)]
    return f'<div class="pair">{"".join(_pairs(caption, values) for caption, values in tables if values)}</div>'


def _pairs(caption: str, values: Mapping[str, Any], numbers: bool = False) -> str:
    rows = [(key, _moment_or_value(key, value)) for key, value in values.items()]
    return _table(caption, ("name", "value"), rows, numbers={1} if numbers else set())


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], numbers: set[int]) -> str:
    """First column names the row; `numbers`: columns set to the right."""
    look = [' class="n"' if n in numbers else "" for n in range(len(head))]
    top = "".join(f'<th scope="col"{look[n]}>{clip(name)}</th>' for n, name in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{clip(row[0])}</th>'
        + "".join(f"<td{look[n]}>{text(cell)}</td>" for n, cell in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    head_and_body = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f"<div><table><caption>{text(caption)}</caption>{head_and_body}</table></div>"


def _column(series: Sequence[Second], field: str) -> NDArray[np.float64]:
    return np.array([getattr(second, field) for second in series], np.float64)


def _number(value: float | None) -> str:
    return "-" if value is None else short(value)


def _with_unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{short(value)} {unit}"


def _share(value: float | None) -> str:
    """Percent that says 100 only when it is all."""
    if value is None:
        return "-"
    percent = math.floor(value * 10_000) / 100
    return f"{percent:g} %"


def _moment_or_value(key: str, value: Any) -> str:
    return f"{moment(value)} UTC" if key.endswith("_us") and isinstance(value, int) else _value(value)


def _value(value: Any) -> str:
    """Anything of the record as text of bearable length."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    said = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return said if len(said) <= VALUE_CHARS_MAX else said[: VALUE_CHARS_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
