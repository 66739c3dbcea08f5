"""`make fuzz-wire`: connections that speak broken HTTP/2, and beside them somebody who does everything right.

Half of the connections are plain text, half go over TLS with a certificate that the service takes, to a service each.
They come in blocks, all of a block at once. Promises: it fails if a service ends, a connection is not taken, a right
call has no answer or a wrong one, memory grows by more than its calls leave, descriptors, threads or
sessions stay, a read that was acknowledged is not stored, or the log has an error of ours. A connection follows from
seed and number: `--first 4711 --connections 1 --only tls` sends it again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import orjson
import psycopg

from loadtest import report
from loadtest.local import LocalService
from loadtest.pressure import HELD, Look, Watch, finish, say_to_stderr
from loadtest.wire_sender import calls_of, drawn, send_all
from meterwatch import registry_csv
from meterwatch.client.registry import RegistryFile, import_registry
from meterwatch.client.retry import open_channel
from meterwatch.client.secure import CA, CERT, KEY, in_environment, in_plain_text, security
from meterwatch.devtools import broken_http2
from meterwatch.quality import METHOD_MASK
from meterwatch.transport import dev
from meterwatch.v1.ingest_pb2 import Read, SendReadsRequest, SendReadsResponse

BLOCK: Final = 50
"""Connections at once."""
WARM_SHARE: Final = 0.1
"""Of the connections, after which memory counts."""
GROWN_MB_MAX: Final = 128.0
"""What fills up once, and what the allocator keeps;"""
BYTES_PER_CALL: Final = 150
"""and what gRPC keeps of every call that its caller leaves (docs/reliability.md)."""
FLAT_SPARE: Final = 32
"""Of each of HELD more at the end than before the first connection: pools of database connections have grown, with a
thread and a descriptor each."""
OF_GRPC: Final = ("Invalid encoding on", "ExecuteBatchError raised in core")
"""A header that is no text, which is read as Latin-1; a caller that has gone before its answer."""
LOOK_EVERY_S: Final = 1.0
ENOUGH_S: Final = 60.0
"""A limit for a hung service, not an expectation."""
HEAD_END: Final = "HES-right"
HOSTILE: Final = broken_http2.HEAD_END
"""Another one: who sends too much is told so, and may not cost the others anything."""
METERS: Final = 64
STEP_S: Final = 900
DAYS: Final = 40
"""Of reads each meter may have: less than a head-end's late window."""
ARMS: Final = ("plain", "tls")


class RightCaller:
    """Sends one read after the other by SendReads, and opens a new connection for it now and then. Close it.

    Where several connections flood one method, gRPC cancels calls of that method by chance; as meterwatch.client does
    it, such a call is sent again, after longer and longer pauses.
    """

    PAUSE_S: Final = 0.005
    NEW_EVERY: Final = 20
    PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

    def __init__(self, address: str, arm: str, credentials: Any) -> None:
        self.accepted = 0
        self.again = 0
        """Calls that gRPC cancelled by itself, which were sent again."""
        self.errors: list[str] = []
        self.ms: list[float] = []
        self._address, self._arm, self._credentials = address, arm, credentials
        self._epoch = time.time_ns() // 1000
        self._newest_us = int(time.time()) // STEP_S * STEP_S * 1_000_000
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="right-caller", daemon=True)
        self._thread.start()

    @property
    def answered(self) -> int:
        """Calls answered so far, well or not."""
        return len(self.ms) + len(self.errors)

    def await_another(self) -> None:
        """Wait for the answer to a call that begins after now."""
        want = self.answered + 2  # the next may have begun before
        with self._changed:
            self._changed.wait_for(lambda: self.answered >= want or not self._thread.is_alive(), 2 * ENOUGH_S)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2 * ENOUGH_S)

    def request(self, number: int) -> SendReadsRequest:
        """A read that no call before had."""
        step = 1 + number // METERS
        if step > DAYS * 86_400 // STEP_S:
            raise RuntimeError(f"{number:,} right calls; {DAYS} days of {METERS} meters have no more reads")
        end_us = self._newest_us - step * STEP_S * 1_000_000
        read = Read(meter=meter_name(self._arm, number % METERS), end_us=end_us, import_wh=1 + number % 100)
        return SendReadsRequest(head_end=HEAD_END, epoch=self._epoch, seq=number + 1, interval_s=STEP_S, read=[read])

    def _run(self) -> None:
        channel = open_channel(self._address, self._credentials)
        for number in itertools.count():
            if self._stop.wait(self.PAUSE_S) or len(self.errors) > 20:
                break
            if number % self.NEW_EVERY == self.NEW_EVERY - 1:
                channel.close()
                channel = open_channel(self._address, self._credentials)
            self._call(channel, number)
        channel.close()

    def _call(self, channel: Any, number: int) -> None:
        send = channel.unary_unary(
            "/meterwatch.v1.Ingest/SendReads", SendReadsRequest.SerializeToString, SendReadsResponse.FromString
        )
        began_s = time.monotonic()
        try:
            answer = self._sent(send, self.request(number))
            if answer.ack.accepted != 1:
                raise RuntimeError(f"the answer to a right read is {answer}")
        except (grpc.RpcError, RuntimeError) as error:
            self.errors.append(f"right call {number}: {error}")
        else:
            self.accepted += 1
            self.ms.append(1000 * (time.monotonic() - began_s))
        with self._changed:
            self._changed.notify_all()

    def _sent(self, send: Any, request: SendReadsRequest) -> SendReadsResponse:
        for pause_s in (*self.PAUSES_S, None):
            try:
                answer: SendReadsResponse = send(request, timeout=ENOUGH_S)
                return answer
            except grpc.RpcError as error:
                if pause_s is None or error.code() is not grpc.StatusCode.CANCELLED:
                    raise
            self.again += 1
            self._stop.wait(pause_s)
        raise AssertionError("the last try raises or returns")


def meter_name(arm: str, number: int) -> str:
    """Of the meters of one arm."""
    return f"W-{arm}-{number}"


def registry() -> list[RegistryFile]:
    """What the right callers send for, and whom the others say they are."""
    meter = {"head_end": HEAD_END, "transformer": "T-1", "interval_s": "900", "installed_on": "2020-01-01"}
    meters = [meter | {"meter": meter_name(arm, number)} for arm in ARMS for number in range(METERS)]
    late = {"time_zone": "UTC", "late_window_days": "45"}
    return [
        _file("head_ends", registry_csv.HeadEnd._fields, [{"head_end": name, **late} for name in (HEAD_END, HOSTILE)]),
        _file("transformers", registry_csv.Transformer._fields, [{"transformer": "T-1", "rated_kva": "400"}]),
        _file("meters", registry_csv.Meter._fields, meters),
    ]


def _file(kind: str, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> RegistryFile:
    lines = [",".join(columns), *(",".join(row.get(column, "") for column in columns) for row in rows), ""]
    return RegistryFile(kind, f"{kind}.csv", "\n".join(lines).encode())


# -- one service ------------------------------------------------------------------------------------------------------


class Certificates:
    """A CA of the run's own, and what of it whom is given."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        now = datetime.now(UTC).replace(microsecond=0)
        ca = dev.authority(now)
        pairs = {"ca": ca, "server": dev.server(ca, now), "admin": dev.client(ca, "admin", "admin", now)}
        pairs |= {name: dev.client(ca, name, "head-end", now) for name in (HEAD_END, HOSTILE)}
        for name, pair in pairs.items():
            dev.write_pair(directory, name, pair)

    def _file(self, name: str) -> str:
        return str(self._directory / name)

    def service(self) -> dict[str, str]:
        """Settings of a service that demands a certificate."""
        files = {"CERTIFICATE": "server.pem", "KEY": "server.key.pem", "CLIENT_CA": "ca.pem"}
        return {f"SERVER__TLS__{key}": self._file(name) for key, name in files.items()}

    def administrator(self) -> AbstractContextManager[None]:
        """The environment of who imports the registry and asks for health."""
        return in_environment(
            {CA: self._file("ca.pem"), CERT: self._file("admin.pem"), KEY: self._file("admin.key.pem")}
        )

    def head_end(self) -> Any:
        """Of the right caller."""
        return security(self._file("ca.pem"), self._file(f"{HEAD_END}.pem"), self._file(f"{HEAD_END}.key.pem"))

    def hostile(self) -> ssl.SSLContext:
        """Of the others: what they send goes over TLS as it should."""
        context = ssl.create_default_context(cafile=self._file("ca.pem"))
        context.load_cert_chain(self._file(f"{HOSTILE}.pem"), self._file(f"{HOSTILE}.key.pem"))
        context.set_alpn_protocols(["h2"])
        context.check_hostname = False
        return context


def attacked(
    arm: str, numbers: range, seed: int, database_url: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """One service and its share of the connections; {figures, ends, problems}."""
    with tempfile.TemporaryDirectory(prefix="meterwatch-wire-") as directory:
        certificates = Certificates(Path(directory)) if arm == "tls" else None
        with (
            certificates.administrator() if certificates else in_plain_text(),
            _service(certificates, database_url) as service,
        ):
            answer = import_registry(service.address, registry(), deadline_s=ENOUGH_S)
            if answer.error:
                raise RuntimeError(f"the registry was refused: {answer.error[0].message}")
            return _attack(service, arm, numbers, seed, certificates, say)


@contextmanager
def _service(certificates: Certificates | None, database_url: str | None) -> Iterator[LocalService]:
    settings = {"CLOCK__MODE": "simulated", "SERVER__IDLE_TIMEOUT_S": "60", "LOG__FORMAT": "json"}
    settings |= certificates.service() if certificates else {}
    with closing(LocalService(int(time.time()) * 1_000_000, database_url, settings)) as service:
        yield service


def _attack(
    service: LocalService, arm: str, numbers: range, seed: int, certificates: Certificates | None,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    caller = RightCaller(service.address, arm, certificates.head_end() if certificates else None)
    tls = certificates.hostile() if certificates else None
    ends: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    problems: list[str] = []
    looks: list[Look] = []
    calls = 0
    blocks = -(-len(numbers) // BLOCK)
    with closing(Watch(service.address, service.pid, LOOK_EVERY_S, service.dsn)) as watch, closing(caller):
        caller.await_another()
        before = watch.look()
        began_s = time.monotonic()
        for block in range(blocks):
            those = [drawn(seed, number) for number in numbers[block * BLOCK : (block + 1) * BLOCK]]
            ways.update(one.way for one in those)
            calls += sum(map(calls_of, those))
            ends += asyncio.run(send_all(service.address, those, tls))
            caller.await_another()
            if not service.alive():
                at = numbers[block * BLOCK]
                problems.append(f"{arm}: the service ended after connections {at} and on: {service.log_tail()}")
                break
            if caller.errors:
                problems.append(f"{arm}: connections {numbers[block * BLOCK]} and on: {caller.errors[0]}")
                break
            looks.append(watch.look())
            if block % 100 == 99:
                say(f"{arm}: {(block + 1) * BLOCK:,} of {len(numbers):,} connections, {looks[-1].rss_mb:.0f} MB")
        took_s = time.monotonic() - began_s
        after = _settled(watch, before) if service.alive() else before
    warm = looks[int(len(looks) * WARM_SHARE) :] or [before]
    figures = {
        "connections": sum(ends.values()), "calls": calls, "seconds": took_s,
        "refused": ends["refused"], "ways": len(ways),
        "right_calls": caller.answered, "right_accepted": caller.accepted, "right_failed": len(caller.errors),
        "right_again": caller.again,
        "right_stored": _stored(service, arm) if service.alive() else -1, "right_ms_max": max(caller.ms, default=0.0),
        "health_asked": watch.health.asked, "health_ms_max": watch.health.ms_max(),
        "rss_mb_before": before.rss_mb, "rss_mb_warm": warm[0].rss_mb, "rss_mb_max": max(one.rss_mb for one in warm),
        "rss_mb_end": after.rss_mb, "rss_mb_grown": after.rss_mb - warm[0].rss_mb,
        **{f"{name}_more": getattr(after, name) - getattr(before, name) for name in HELD},
        "errors_logged": len(errors_in(service.log())),
    }  # fmt: skip
    problems += [f"{arm}: {one}" for one in problems_of(figures)]
    return {"figures": figures, "ends": dict(ends.most_common()), "ways": dict(ways), "problems": problems}


def _settled(watch: Watch, before: Look) -> Look:
    """The service once it holds no more open than before, or after ENOUGH_S."""
    deadline_s = time.monotonic() + ENOUGH_S
    while (now := watch.look()).descriptors > before.descriptors + FLAT_SPARE and time.monotonic() < deadline_s:
        time.sleep(0.2)  # between two looks
    return now


def _stored(service: LocalService, arm: str) -> int:
    """Reads of an arm's meters that somebody sent."""
    with psycopg.connect(service.dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM reads JOIN meters USING (slot) WHERE meter LIKE %s AND quality & %s = 0",
            (f"W-{arm}-%", METHOD_MASK),
        ).fetchone()
        assert row is not None
        return int(row[0])


def errors_in(log: str) -> list[str]:
    """Lines of a log that tell of an error, but for what gRPC says of a header or a caller it cannot serve."""
    lines = [orjson.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [
        str(line) for line in lines if line["level"] in ("error", "critical") and not line["event"].startswith(OF_GRPC)
    ]


def problems_of(figures: dict[str, float]) -> list[str]:
    """What went wrong at one service; empty: nothing."""
    f = figures
    grown_mb_max = GROWN_MB_MAX + BYTES_PER_CALL * f["calls"] / 1e6
    found = [
        (f["refused"] > 0, f"{f['refused']:.0f} connections were not taken"),
        (f["right_calls"] == 0 or f["right_failed"] > 0,
         f"{f['right_failed']:.0f} of {f['right_calls']:.0f} right calls failed"),
        (f["right_stored"] != f["right_accepted"],
         f"{f['right_accepted']:.0f} right reads acknowledged, {f['right_stored']:.0f} stored"),
        (f["rss_mb_grown"] > grown_mb_max,
         f"memory grew by {f['rss_mb_grown']:.0f} MB after the first tenth, {grown_mb_max:.0f} may be"),
        (f["errors_logged"] > 0, f"{f['errors_logged']:.0f} errors in the log"),
    ]  # fmt: skip
    found += [(f[f"{name}_more"] > FLAT_SPARE, f"{f[f'{name}_more']:.0f} {name} more than before") for name in HELD]
    return [sentence for failed, sentence in found if failed]


# -- the run ----------------------------------------------------------------------------------------------------------


def run(
    connections: int, seed: int, database_url: str | None, say: Callable[[str], None], *,
    first: int = 0, only: tuple[str, ...] = ARMS,
) -> dict[str, Any]:  # fmt: skip
    """All connections, shared among the arms; {arms, problems, ...} as written to the file."""
    share = -(-connections // len(only))
    arms: dict[str, Any] = {}
    for place, arm in enumerate(only):
        numbers = range(first + place * share, first + min((place + 1) * share, connections))
        arms[arm] = attacked(arm, numbers, seed, database_url, say)
        say(f"{arm}: " + ", ".join(f"{key} {round(value, 1):,}" for key, value in arms[arm]["figures"].items()))
        say(f"{arm}: " + ", ".join(f"{how} {count:,}" for how, count in arms[arm]["ends"].items()))
    return {
        "commit": report.commit(), "machine": report.machine(), "versions": report.versions(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "seed": seed, "first": first, "arms": arms,
        "problems": [problem for arm in arms.values() for problem in arm["problems"]],
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.wire_fuzz", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first connection")
    parser.add_argument("--only", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    given = parser.parse_args(arguments)
    result = run(given.connections, given.seed, None, say_to_stderr, first=given.first, only=tuple(given.only))
    if given.json:
        given.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    finish(result["problems"], given.json)


if __name__ == "__main__":
    main()
