"""What is missing is told within the hour: calls, acks, metrics and SQL agree with the stored reads; real service."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import grpc
import pytest
from databases import Databases
from served import HEAD_END, METERS, STEP_S, US, Served, ended, fresh_database, reads, serving
from typer.testing import CliRunner

from meterwatch.cli import app
from meterwatch.cli.output import utc
from meterwatch.client.gaps import Gap, missing_reads
from meterwatch.v1 import gaps_pb2

STEP_US = STEP_S * US
GRACE_US = 2700 * US


@pytest.fixture
def served(cluster: Databases) -> Iterator[Served]:
    with fresh_database(cluster) as dsn, serving(dsn) as one:
        yield one


def now_grid_us() -> int:
    return int(time.time()) // STEP_S * STEP_US


def send(served: Served, keys: list[tuple[int, int]]) -> Any:
    """Reads of (index of the meter, end); the Ack."""
    with served.stream() as raw:
        answer = raw.ask(
            reads(1, len(keys), meter_index=[meter for meter, _ in keys], stamp_us=[end for _, end in keys])
        )
        assert answer.ack.accepted == len(keys), answer
        return answer.ack


def plain_gaps(sent: set[tuple[int, int]], ends: list[int]) -> set[tuple[str, int]]:
    return {(METERS[meter], end) for meter in range(len(METERS)) for end in ends if (meter, end) not in sent}


def unfolded(gaps: list[Gap]) -> Counter[tuple[str, int]]:
    return Counter(
        (gap.meter, end) for gap in gaps for end in range(gap.first_end_us, gap.last_end_us + 1, gap.interval_s * US)
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_list_is_what_was_not_sent_in_whatever_parts_it_came(served: Served, seed: int) -> None:
    rnd = random.Random(seed)
    last = now_grid_us() - 6 * STEP_US
    ends = [last - n * STEP_US for n in range(20)]
    keys = [(meter, end) for meter in range(len(METERS)) for end in ends]
    sent = set(rnd.sample(keys, len(keys) * 2 // 3))
    order = rnd.sample(sorted(sent), len(sent))

    def told() -> Counter[tuple[str, int]]:
        return unfolded(list(missing_reads(served.address, HEAD_END, from_us=min(ends) - 1, to_us=last)))

    assert set(told()) == plain_gaps(set(), ends)  # from here on the ends are known, and commits are told
    for at in range(0, len(order), 7):
        send(served, order[at : at + 7])
    assert told() == Counter(plain_gaps(sent, ends))
    runs = list(missing_reads(served.address, meters=[METERS[0]], from_us=min(ends) - 1, to_us=last))
    for gap in runs:
        assert gap.reads == (gap.last_end_us - gap.first_end_us) // STEP_US + 1
    assert all(later.first_end_us > before.last_end_us + STEP_US for before, later in pairwise(runs))


def test_a_restart_tells_the_same_gaps(cluster: Databases) -> None:
    last = now_grid_us() - 6 * STEP_US
    ends = [last - n * STEP_US for n in range(8)]
    sent = {(meter, end) for meter in range(len(METERS)) for end in ends[meter:]}
    with fresh_database(cluster) as dsn:
        for turn in range(2):
            with serving(dsn) as served:
                if turn == 0:
                    send(served, sorted(sent))
                found = missing_reads(served.address, HEAD_END, from_us=min(ends) - 1, to_us=last)
                assert unfolded(list(found)) == Counter(plain_gaps(sent, ends))


def test_a_read_that_still_has_time_is_not_missing(served: Served) -> None:
    now = now_grid_us()
    told = unfolded(list(missing_reads(served.address, HEAD_END)))
    newest = max(end for _, end in told)
    assert newest <= now + STEP_US - GRACE_US
    assert newest >= now - GRACE_US - STEP_US


def test_acks_and_metrics_count_what_is_overdue(served: Served) -> None:
    last = now_grid_us() - 6 * STEP_US
    first = send(served, [(0, last)])
    assert (first.overdue_reads, first.overdue_meters) == (0, 0)  # nothing was counted yet
    refreshed = asyncio.run_coroutine_threadsafe(_refresh(served), served.loop)
    refreshed.result(60)
    again = send(served, [(0, last - STEP_US)])
    listed = list(missing_reads(served.address, HEAD_END))
    # the second read came after the count
    assert again.overdue_reads == sum(gap.reads for gap in listed) + 1
    assert again.overdue_meters == len(METERS)
    metrics = served.service.metrics.registry
    assert metrics.get_sample_value("meterwatch_reads_overdue", {"head_end": HEAD_END}) == again.overdue_reads
    labels = {"comm_mode": "", "terminal_type": ""}
    owed = metrics.get_sample_value("meterwatch_hour_reads_expected", labels)
    assert owed == 4 * (len(METERS) + 1)
    assert metrics.get_sample_value("meterwatch_district_hour_reads_expected", {"district": ""}) == owed


async def _refresh(served: Served) -> None:
    await served.service.gaps.refresh()


def completeness(served: Served, *by: str, **span: int) -> list[Any]:
    request = gaps_pb2.CompletenessRequest(
        by=[gaps_pb2.CompletenessBy.Value(f"COMPLETENESS_BY_{one}") for one in by], **span
    )
    answer = served.call("Gaps/Completeness", request.SerializeToString())
    return list(gaps_pb2.CompletenessResponse.FromString(answer).row)


def test_completeness_of_the_call_is_that_of_sql_and_of_the_reads(served: Served) -> None:
    hour = now_grid_us() // (4 * STEP_US) * 4 * STEP_US
    ends = [hour - n * STEP_US for n in range(12)]
    sent = [(meter, end) for meter in range(len(METERS)) for end in ends if (meter + end // STEP_US) % 3]
    send(served, sent)
    span = {"from_us": hour - 12 * STEP_US, "to_us": hour}
    [row] = completeness(served, **span)
    assert (row.expected, row.present) == (12 * (len(METERS) + 1), len(sent))
    told = [
        (row.hour_us, row.comm_mode, row.terminal_type, row.district, row.expected, row.present)
        for row in completeness(served, "HOUR", "COMM_MODE", "TERMINAL_TYPE", "DISTRICT", **span)
    ]
    assert len(told) == 3
    assert sum(row[-1] for row in told) == len(sent)
    by_sql = served.sql(
        "SELECT (extract(epoch FROM hour_at) * 1000000)::bigint, comm_mode, terminal_type, district, expected, present"
        " FROM read_completeness(to_timestamp(%s), to_timestamp(%s)) ORDER BY 1",
        span["from_us"] // US, hour // US,
    )  # fmt: skip
    assert sorted(told) == by_sql


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (gaps_pb2.GapsRequest(), "INVALID_ARGUMENT", "BAD_QUERY"),
        (gaps_pb2.GapsRequest(head_end=HEAD_END, meter=[METERS[0]]), "INVALID_ARGUMENT", "BAD_QUERY"),
        (gaps_pb2.GapsRequest(head_end=HEAD_END, from_us=1, to_us=9 * 86_400 * US), "INVALID_ARGUMENT", "BAD_QUERY"),
        (gaps_pb2.GapsRequest(head_end="HES-nobody"), "PERMISSION_DENIED", "HEAD_END_UNKNOWN"),
        (gaps_pb2.GapsRequest(meter=["M-nobody"]), "NOT_FOUND", "UNKNOWN_ASSET"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    served: Served, request_: gaps_pb2.GapsRequest, code: str, reason: str
) -> None:
    with grpc.insecure_channel(served.address) as channel, pytest.raises(grpc.RpcError) as refused:
        list(channel.unary_stream("/meterwatch.v1.Gaps/List")(request_.SerializeToString(), timeout=60))
    assert ended(refused.value)[:2] == (code, reason)


def shown(served: Served, *arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["reads", *arguments, "--address", served.address, "-o", "json"])
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_the_commands_show_gaps_and_completeness(served: Served) -> None:
    last = now_grid_us() - 6 * STEP_US
    send(served, [(0, last), (0, last - 3 * STEP_US)])
    span = ("--from", utc(last - 4 * STEP_US), "--to", utc(last))
    [gap] = shown(served, "gaps", METERS[0], *span)
    assert gap == {
        "meter": METERS[0],
        "first_end": utc(last - 2 * STEP_US),
        "last_end": utc(last - STEP_US),
        "reads": 2,
        "interval_s": STEP_S,
    }
    assert len(shown(served, "gaps", "--head-end", HEAD_END, *span)) == len(METERS)
    owed = 4 * (len(METERS) + 1)
    [row] = shown(served, "completeness", *span)
    assert row == {
        "comm_mode": "", "expected": owed, "present": 2, "missing": owed - 2, "percent": round(200 / owed, 3),
    }  # fmt: skip
    [row] = shown(served, "completeness", "--by", "hour", "--by", "district", *span)
    assert (row["hour"], row["district"]) == (utc(last - 4 * STEP_US), "")


def test_an_estimate_is_shown_first_then_written_and_is_no_arrival(served: Served) -> None:
    last = now_grid_us() - 6 * STEP_US
    send(served, [(0, last - n * STEP_US) for n in (0, 1, 4, 5)])
    span = ("--from", utc(last - 6 * STEP_US), "--to", utc(last))
    missing = shown(served, "gaps", METERS[0], *span)
    expected = [
        {"meter": METERS[0], "end": utc(last - n * STEP_US), "method": "LINEAR", "import_wh": 100, "export_wh": None}
        for n in (3, 2)
    ]
    stored = "SELECT count(*) FROM reads"
    assert shown(served, "estimate", "--meter", METERS[0], "--dry-run", *span) == expected
    assert served.sql(stored) == [(4,)]
    assert shown(served, "estimate", "--head-end", HEAD_END, *span) == expected
    assert served.sql(stored) == [(6,)]
    assert shown(served, "estimate", "--meter", METERS[0], *span) == []
    assert shown(served, "gaps", METERS[0], *span) == missing
    [row] = completeness(served, from_us=last - 6 * STEP_US, to_us=last)
    assert row.present == 4
    counted = "SELECT sum(present), sum(estimated) FROM read_completeness(to_timestamp(%s), to_timestamp(%s))"
    assert served.sql(counted, (last - 6 * STEP_US) // US, last // US) == [(4, 2)]
    with served.stream() as raw:
        answer = raw.ask(reads(1, 1, meter_index=[0], stamp_us=[last - 2 * STEP_US], import_wh=[100]))
    assert (answer.ack.versions, answer.ack.accepted) == (1, 0)
    assert [gap["reads"] for gap in shown(served, "gaps", METERS[0], *span)] == [1]
