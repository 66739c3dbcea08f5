"""The catalogue of bad input, shuffled, over one service that lives through it: `make abuse`.

METERWATCH_ABUSE_TIMES, _SEED, _JSON: how often each input is sent, in which order, and where the figures go.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import bad_inputs
import grpc
import orjson
import pytest
import test_bad_input
from abuse import (
    MODULES,
    SHARES,
    Abuse,
    Input,
    Reached,
    RightSender,
    RightViewer,
    imported,
    inputs,
    order,
    registry,
    right_ones_kept,
)
from databases import Databases
from served import Served, fresh_database
from service_process import ServiceProcess, until

from loadtest import report
from loadtest.pressure import HELD, Look, Watch
from loadtest.wire_fuzz import errors_in
from meterwatch.soundness import inspect
from rules.profile import PROFILES
from storage.sound import Span, inspected
from storage.upkeep import Retention

TIMES: Final = float(os.environ.get("METERWATCH_ABUSE_TIMES", "0.3"))
SEED: Final = int(os.environ.get("METERWATCH_ABUSE_SEED", "1"))
JSON: Final = os.environ.get("METERWATCH_ABUSE_JSON", "")
GROWN_MB_MAX: Final = 160.0
"""After the first tenth: what is known of stored and of arrived reads fills up, 64 MiB each, and gRPC keeps some bytes
of every call that is left."""
FLAT_SPARE: Final = 8
"""Of each of HELD more at the end than before."""


async def broken_laws(dsn: str) -> list[str]:
    """What `doctor --deep` says."""
    async with inspected(dsn, Retention(), Span()) as db:
        return [f"{law.invariant}: {one.what}" async for law in inspect(db, PROFILES["default"]) for one in law.found]


def held(looks: Sequence[Look]) -> dict[str, float]:
    """Memory and what else a service holds: before, after the first tenth, afterwards."""
    return {
        f"{name}_{when}": getattr(look, name)
        for when, look in zip(("before", "tenth", "after"), looks, strict=True)
        for name in ("rss_mb", *HELD)
    }


def left_behind(before: Look, tenth: Look, after: Look) -> list[str]:
    """What the service holds that it did not hold before."""
    found = [f"{after.rss_mb:.0f} MB, {tenth.rss_mb:.0f} after the first tenth"]
    found = found if after.rss_mb - tenth.rss_mb > GROWN_MB_MAX else []
    return found + [
        f"{getattr(after, name)} {name}, {getattr(before, name)} before"
        for name in HELD
        if getattr(after, name) > getattr(before, name) + FLAT_SPARE
    ]


def test_the_whole_catalogue_in_random_order_leaves_one_service_as_it_was(cluster: Databases, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    settings = {"METERWATCH_CLOCK__MODE": "simulated", "METERWATCH_LOG__FORMAT": "json"}
    settings["METERWATCH_ESTIMATION__AUTOMATIC"] = "false"  # an interval that it filled is not fresh any more
    with ExitStack() as stack:
        dsn = stack.enter_context(fresh_database(cluster))
        service = stack.enter_context(ServiceProcess(dsn, now, tmp_path / "service.log", **settings))
        service.start()
        abuse = Abuse(Reached(service.address, dsn, None, None), order(TIMES, SEED), SEED)  # type: ignore[arg-type]
        imported(service.address, registry(abuse.turns))
        watch = stack.enter_context(closing(Watch(service.address, service.pid, 1.0, dsn)))
        sender, viewer = RightSender(service.address), RightViewer(service.address)
        stack.callback(viewer.close)
        stack.callback(sender.close)
        until(lambda: sender.sent_wh, "the right sender is answered")
        before = watch.look()
        tenths = [before]
        abuse.at_tenth = lambda: tenths.append(watch.look())
        print(f"{len(abuse.order):,} inputs of {len(inputs()):,} kinds; the figures come when all are sent", flush=True)
        began_s = time.monotonic()
        abuse.go()
        took_s = time.monotonic() - began_s
        assert service.alive, service.tail()
        problems = abuse.problems
        try:
            until(lambda: watch.look().descriptors <= before.descriptors + FLAT_SPARE, "its descriptors are closed")
        except AssertionError as error:
            problems.append(str(error))
        looks = before, tenths[-1], watch.look()
        problems += left_behind(*looks)
        problems += right_ones_kept(dsn, sender, viewer)
        problems += [f"in the log: {line}" for line in errors_in(service.output.read_text(errors="replace"))]
        problems += asyncio.run(broken_laws(dsn))
        figures = {
            "times": TIMES, "seed": SEED, "inputs": len(inputs()), "sent": sum(abuse.sent.values()),
            "sent_of_each": sorted(set(abuse.sent.values())), "seconds": round(took_s, 1),
            "cancelled": abuse.cancelled,
            "rows_of_the_catalogue": len(abuse.record.rows), "right_reads": sender.close().accepted,
            "right_transitions": len(viewer.seqs), "health_asked": watch.health.asked,
            "health_unanswered": watch.health.unanswered, "health_ms_max": watch.health.ms_max(),
            **held(looks),
        }  # fmt: skip
    written = {"commit": report.commit(), "machine": report.machine(), **figures, "problems": problems}
    text = orjson.dumps(written, option=orjson.OPT_INDENT_2).decode()
    print(text)
    if JSON:
        Path(JSON).write_text(text + "\n", "utf-8")
    assert problems == []
    assert len(abuse.record.rows) > 30


# -- what it takes for a failure --------------------------------------------------------------------------------------


def test_every_input_comes_as_often_as_asked_in_an_order_that_follows_from_the_seed() -> None:
    drawn = [one.name for one in order(3, 7)]
    assert drawn == [one.name for one in order(3, 7)] != [one.name for one in order(3, 8)]
    every = {one.name for one in inputs() if one.share == 1.0}
    assert len(every) > 150
    assert {drawn.count(name) for name in every} == {3}
    assert {one.name.partition("::")[0] for one in inputs()} == {module.__name__ for module in MODULES}


def test_what_is_sent_less_often_is_among_the_inputs() -> None:
    rare = [one for one in inputs() if one.share < 1.0]
    assert {one.share for one in rare} == {*SHARES.values()}


def sent(*tests: Any) -> list[str]:
    """The problems of an abuse with these inputs."""
    abuse = Abuse(Reached("nowhere", "", None, None), [Input("planted", test, 1.0) for test in tests], 5)  # type: ignore[arg-type]
    abuse.go()
    return abuse.problems


def test_an_answer_that_is_not_on_record_is_a_problem_whoever_the_meters_are() -> None:
    known = next(row for row in bad_inputs.recorded() if row.number == 34)

    def as_on_record(_: Served) -> None:
        test_bad_input.told(known.number, known.input, known.where, known.answer.replace("M-1", "G0-1"))

    def otherwise(_: Served) -> None:
        test_bad_input.told(known.number, known.input, known.where, known.answer.replace("M-1", "M-2"))

    assert sent(as_on_record) == []
    (problem,) = sent(as_on_record, otherwise)
    assert problem.startswith("planted, number 1 of seed 5: AssertionError: on record is ")


def test_the_names_of_the_tests_are_theirs_again_afterwards() -> None:
    before = test_bad_input.METERS, test_bad_input.told
    sent(lambda _: None)
    assert (test_bad_input.METERS, test_bad_input.told) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"rss_mb": 280.0}, "280 MB, 110 after"),
        ({"descriptors": 60}, "60 descriptors, 50 before"),
        ({"threads": 30}, "30 threads"),
        ({"connections": 30}, "30 connections"),
        ({"temp_files": 9}, "9 temp_files"),
    ],
)
def test_whatever_is_held_more_than_before_is_told(change: dict[str, float], says: str | None) -> None:
    before = {"at_s": 0.0, "rss_mb": 100.0, "descriptors": 50, "threads": 20, "connections": 10, "temp_files": 0}
    tenth = before | {"rss_mb": 110.0}
    found = left_behind(*(Look(**one) for one in (before, tenth, tenth | change)))  # type: ignore[arg-type]
    assert [says in one for one in found] == ([] if says is None else [True])


def test_what_grpc_cancels_by_chance_is_sent_again_once() -> None:
    class Cancelled(grpc.RpcError):  # type: ignore[misc]
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.CANCELLED

    ends = [Cancelled(), None, Cancelled(), Cancelled()]

    def planted(_: Served) -> None:
        if (end := ends.pop(0)) is not None:
            raise end

    assert sent(planted) == []
    assert len(sent(planted)) == 1
    assert ends == []
