"""Everything of the catalogue of bad input that reaches a running service, again and again, over one service that lives
through all of it: in random order, several at once, beside a head-end and a viewer who do everything right.

An input is a test of the catalogue that needs nothing but a running service, with one set of its parameters: it sends,
judges code and reason, compares with the record (docs/bad_input.md), and sees a good batch or call through afterwards.
Here the service is a process of its own, and what it holds is measured from outside. Tests that need a service with
settings of their own, or look inside it, stay what they are.

Fresh intervals of four meters are soon used up: meters are taken in turn, and their names are put back into what is
told. So nothing is sent twice that is meant to be new.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import bad_input_world
import bad_inputs
import grpc
import psycopg
import pytest
import served
import test_bad_calls
import test_bad_findings
import test_bad_http2
import test_bad_input
import test_bad_input_wire
import test_bad_streams
from served import STEP_S, US, Served

from meterwatch.client import AlarmFeed, HeadEnd, RegistryFile, import_registry
from meterwatch.quality import METHOD_MASK
from meterwatch.v1 import registry_pb2

MODULES: Final = (
    test_bad_input, test_bad_input_wire, test_bad_calls, test_bad_streams, test_bad_http2, test_bad_findings,
)  # fmt: skip
AT_ONCE: Final = 6
"""Inputs under way."""
SHARES: Final = {
    test_bad_calls.test_no_answer_is_unknown_and_each_of_ours_has_a_reason: 0.1,  # hundreds: any bytes to any method
    test_bad_streams.test_more_batches_than_credits_end_the_stream: 0.1,  # 800,000 rows to make
    test_bad_http2.rapid_reset: 0.2,
    test_bad_http2.test_who_opens_and_resets_streams_ends_no_call_of_others: 0.05,  # fifteen times that
    test_bad_input.test_thousands_of_meters_nobody_knows_go_into_quarantine_and_not_into_the_registry: 0.05,
    test_bad_input.test_ten_million_rows_in_one_message_are_refused_by_grpc_itself_and_not_to_be_retried: 0.02,
    test_bad_input_wire.test_a_bomb_of_gzip_is_not_unpacked: 0.05,
    test_bad_http2.test_a_thousand_batches_of_one_row_are_stored_together: 0.02,
    test_bad_calls.test_a_message_of_a_thousand_random_ones_never_ends_in_our_fault: 0.02,
}
"""What is sent less often than the rest: a test, or one of its parameters, and the share."""
ENDS_AT_ONCE: Final = 12_000
"""Fresh intervals that are given out before the next meters' turn: 125 of the 200 days there are."""
ENDS_PER_INPUT: Final = 6
"""More than the tests take in the mean."""
PROBLEMS_MAX: Final = 20
ENOUGH_S: Final = 120.0
"""A limit for a hung service, not an expectation."""


class Input(NamedTuple):
    """One input of the catalogue."""

    name: str
    send: Callable[[Served], None]
    share: float


def inputs() -> list[Input]:
    """All there are, each once."""
    return [
        one
        for module in MODULES
        for name, test in vars(module).items()
        if name.startswith("test_") and inspect.isfunction(test) and test.__module__ == module.__name__
        for one in _inputs_of(test)
    ]


def _inputs_of(test: Callable[..., None]) -> Iterator[Input]:
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    sets: list[list[dict[str, Any]]] = []
    for mark in marks:
        names, values = mark.args[:2]
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        sets.append([dict(zip(names, value if len(names) > 1 else [value], strict=True)) for value in values])
    given = {name for one in sets for name in one[0]}
    if inspect.signature(test).parameters.keys() - given != {"served"}:
        return
    for number, chosen in enumerate(itertools.product(*sets)):
        arguments = {name: value for one in chosen for name, value in one.items()}
        share = min([SHARES.get(test, 1.0), *(_share_of(value) for value in arguments.values())])
        yield Input(f"{test.__module__}::{test.__name__}[{number}]", functools.partial(test, **arguments), share)


def _share_of(argument: Any) -> float:
    return SHARES.get(argument, 1.0) if isinstance(argument, str) or callable(argument) else 1.0


def order(times: float, seed: int) -> list[Input]:
    """What is sent, in the order in which it is begun: each input so many times, the rare ones by their share."""
    rng = random.Random(seed)
    drawn = [one for one in inputs() for _ in range(int(times * one.share + rng.random()))]
    rng.shuffle(drawn)
    return drawn


# -- names ------------------------------------------------------------------------------------------------------------


def meters_of(turn: int) -> tuple[str, ...]:
    """The four meters of a turn."""
    return tuple(f"G{turn}-{number}" for number in range(1, 5))


def called(patch: pytest.MonkeyPatch, turn: int) -> None:
    """From now on the tests send for the meters of this turn, whose intervals are all fresh."""
    for module in (served, *MODULES):
        if hasattr(module, "METERS"):
            patch.setattr(module, "METERS", meters_of(turn))
    patch.setattr(served, "_number", itertools.count(1))


def ends_taken() -> int:
    """Fresh intervals given out since the turn began."""
    return int(served._FRESH_S - served.fresh_end_us() // US) // STEP_S


class Record:
    """In place of `told`: compares with the record, whatever the meters are called just now, and counts."""

    def __init__(self) -> None:
        self.turn = 0
        self.rows: Counter[tuple[int, str]] = Counter()
        self._known = {(row.number, row.input): row for row in bad_inputs.recorded()}
        self._lock = threading.Lock()

    def told(self, number: int, sent: str, where: str, answer: str) -> None:
        new = bad_inputs.Told(number, self._steady(sent), where, self._steady(answer))
        known = self._known.get((new.number, new.input))
        assert known == new, f"on record is {known}, and this time it was {new}"
        with self._lock:
            self.rows[new.number, new.input] += 1

    def _steady(self, text: str) -> str:
        return bad_inputs.steady(text.replace(f"G{self.turn}-", "M-"))


class Reached(Served):
    """The service of another process, as the tests know one."""

    def stream(self, hello: Any = None, *, meters: Sequence[str] | None = None, welcomed: bool = True) -> served.Raw:
        return super().stream(hello, meters=served.METERS if meters is None else meters, welcomed=welcomed)


# -- who does everything right ----------------------------------------------------------------------------------------


class RightSender:
    """A head-end that sends read after read, of transformers that are overloaded now and then. Close it."""

    HEAD_END: Final = "HES-right"
    PAUSE_S: Final = 0.1
    TRANSFORMERS: Final = 500
    INTERVALS: Final = 90
    """Of the last day: alarms are of now."""
    OVERLOADED_EVERY: Final = 50

    def __init__(self, address: str) -> None:
        self.error = ""
        self.sent_wh = 0
        self._newest_us = int(time.time()) // STEP_S * STEP_S * US
        self._stop = threading.Event()
        self._head_end = HeadEnd(address, self.HEAD_END, give_up_after_s=ENOUGH_S)
        self._thread = threading.Thread(target=self._run, name="right-sender", daemon=True)
        self._thread.start()

    @property
    def reconnects(self) -> int:
        """How often its stream broke."""
        return self._head_end.reconnects

    def close(self) -> Any:
        """Its totals."""
        self._stop.set()
        self._thread.join(ENOUGH_S)
        return self._head_end.totals()

    def _run(self) -> None:
        try:
            with self._head_end as head_end:
                for number in range(self.TRANSFORMERS * self.INTERVALS):
                    if self._stop.wait(self.PAUSE_S):
                        break
                    interval, transformer = divmod(number, self.TRANSFORMERS)
                    end_us = self._newest_us - (self.INTERVALS - interval) * STEP_S * US
                    wh = 2500 if number % self.OVERLOADED_EVERY == 0 else 100  # of 1 kVA
                    head_end.send_columns([f"R-{transformer}"], [0], [end_us], STEP_S, import_wh=[wh])
                    head_end.flush()
                    self.sent_wh += wh
        except Exception as error:  # the thread's boundary: told to the run
            self.error = f"{type(error).__name__}: {error}"


class RightViewer:
    """Somebody who follows the alarms all the time. Close it."""

    def __init__(self, address: str) -> None:
        self.error = ""
        self.began = -1
        self.seqs: list[int] = []
        self._ready = threading.Event()
        self._feed = AlarmFeed(address, give_up_after_s=ENOUGH_S)
        self._thread = threading.Thread(target=self._run, name="right-viewer", daemon=True)
        self._thread.start()
        assert self._ready.wait(ENOUGH_S), "no snapshot of alarms came"

    @property
    def reconnects(self) -> int:
        """How often its subscription broke."""
        return self._feed.reconnects

    def close(self) -> None:
        self._feed.close()
        self._thread.join(ENOUGH_S)

    def _run(self) -> None:
        try:
            for message in self._feed:
                kind = message.WhichOneof("message")
                if kind == "snapshot" and message.snapshot.complete:
                    self.began = self._feed.seq
                    self._ready.set()
                elif kind == "transition":
                    self.seqs.append(message.transition.seq)
        except Exception as error:  # the thread's boundary: told to the run
            self.error = f"{type(error).__name__}: {error}"


def registry(turns: int) -> list[RegistryFile]:
    """The small registry of the tests, with meters for so many turns, and what the right sender sends for."""
    head_ends, transformers, meters = (served.REGISTRY[kind].splitlines() for kind in served.REGISTRY)
    mine = next(line for line in meters if line.startswith(f"{served.METERS[0]},"))
    right = mine.replace(",T-1,", ",TR-{0},").replace(f",{served.HEAD_END}", f",{RightSender.HEAD_END}")
    many = range(RightSender.TRANSFORMERS)
    head_ends.append(head_ends[1].replace(served.HEAD_END, RightSender.HEAD_END))
    transformers += [transformers[1].replace("T-1,", f"TR-{n},").replace(",400", ",1") for n in many]
    meters += [mine.replace(served.METERS[0], meter) for turn in range(turns) for meter in meters_of(turn)]
    meters += [right.replace(served.METERS[0], f"R-{n}").format(n) for n in many]
    files = {"head_ends": head_ends, "transformers": transformers, "meters": meters}
    return [RegistryFile(kind, f"{kind}.csv", "\n".join([*lines, ""]).encode()) for kind, lines in files.items()]


# -- the run ----------------------------------------------------------------------------------------------------------


@dataclass
class Abuse:
    """Sends all of an order to one service. `problems`: what went otherwise than on record."""

    target: Reached
    order: list[Input]
    seed: int
    at_tenth: Callable[[], None] = lambda: None
    """Called once, after the first tenth."""
    problems: list[str] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    sent: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    """Inputs that were sent again, because gRPC cancelled a call of theirs."""

    def __post_init__(self) -> None:
        self._next = 0
        self._lock = threading.Lock()

    @property
    def turns(self) -> int:
        """Meters' turns that may be needed."""
        return 2 + len(self.order) * ENDS_PER_INPUT // ENDS_AT_ONCE

    def go(self) -> None:
        """Send everything, or until PROBLEMS_MAX."""
        with pytest.MonkeyPatch.context() as patch:
            for module in (bad_input_world, *MODULES):
                if hasattr(module, "told"):
                    patch.setattr(module, "told", self.record.told)
            for turn in range(self.turns):
                self.record.turn = turn
                called(patch, turn)
                with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="bad") as pool:
                    list(pool.map(lambda _: self._work(), range(AT_ONCE)))
                if self._over:
                    return
        self.problems.append(f"{self._next} of {len(self.order)} inputs sent: no meters are left")

    @property
    def _over(self) -> bool:
        return self._next >= len(self.order) or len(self.problems) >= PROBLEMS_MAX

    def _work(self) -> None:
        """One of those at once, until the turn is over."""
        while ends_taken() < ENDS_AT_ONCE:
            with self._lock:
                if self._over:
                    return
                number, self._next = self._next, self._next + 1
            self._send(number, self.order[number])
            if number == len(self.order) // 10:
                self.at_tenth()

    def _send(self, number: int, one: Input) -> None:
        try:
            self._tried(one)
        except Exception as error:  # the boundary of one input: told to the run
            said = f"{type(error).__name__}: {error}"
            self.problems.append(f"{one.name}, number {number} of seed {self.seed}: {said[:2000]}")
        with self._lock:
            self.sent[one.name] += 1

    def _tried(self, one: Input) -> None:
        """Send an input, and once more where gRPC cancelled one of its calls by chance: two floods may be under way."""
        try:
            one.send(self.target)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise
            with self._lock:
                self.cancelled += 1
            one.send(self.target)


def right_ones_kept(dsn: str, sender: RightSender, viewer: RightViewer) -> list[str]:
    """What the two who did everything right did not get; closes them."""
    totals = sender.close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        stored = connection.execute(
            "SELECT count(*), coalesce(sum(import_wh), 0) FROM reads JOIN meters USING (slot)"
            " WHERE meter LIKE 'R-%%' AND quality & %s = 0",
            (METHOD_MASK,),
        ).fetchone()
        (newest,) = connection.execute("SELECT seq FROM alarm_cursor").fetchone() or (0,)
        deadline_s = time.monotonic() + ENOUGH_S
        while (viewer.seqs[-1] if viewer.seqs else viewer.began) < newest and time.monotonic() < deadline_s:
            time.sleep(0.05)  # between two looks at what has come
        viewer.close()
        log = connection.execute(
            "SELECT seq FROM alarm_log WHERE seq > %s AND seq <= %s ORDER BY seq", (viewer.began, newest)
        ).fetchall()
    heard = [seq for seq in viewer.seqs if seq <= newest]
    found = [
        (sender.error, f"the right sender: {sender.error}"),
        (viewer.error, f"the right viewer: {viewer.error}"),
        (not totals.sent, "the right sender sent nothing"),
        (totals.sent != totals.accepted, f"the right sender sent {totals.sent}, accepted {totals.accepted}"),
        (
            stored != (totals.accepted, sender.sent_wh),
            f"of {totals.accepted} reads of the right sender {stored} stored",
        ),
        (sender.reconnects, f"the right sender's stream broke {sender.reconnects} times"),
        (viewer.reconnects, f"the right viewer's subscription broke {viewer.reconnects} times"),
        (heard != [seq for (seq,) in log], f"of {len(log)} transitions the right viewer was told {len(heard)}"),
    ]
    return [sentence for failed, sentence in found if failed]


def imported(address: str, files: Sequence[RegistryFile]) -> None:
    """Import the registry; AssertionError with what was refused."""
    answer: registry_pb2.ImportResponse = import_registry(address, files, deadline_s=ENOUGH_S)
    assert not answer.error, answer.error
