"""What is seen of a run from outside, second by second: reads, latencies, alarms, CPU by process; and the terminal.

Promises: the CPU of the service and of PostgreSQL is there if both run on this machine and are ours. Refuses to know
what is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.cpu import process_s, rss_mb, tree_s
from loadtest.openloop import Tick
from loadtest.record import Second

LINE_EVERY_S: Final = 10
SPARK: Final = "▁▂▃▄▅▆▇█"


class Watch:
    """Collects the seconds of one run."""

    def __init__(self, start_s: float, pids: dict[str, Callable[[], float]], service_pid: int | None) -> None:
        self._start_s, self._pids, self._service_pid = start_s, pids, service_pid
        self._seconds: dict[int, Second] = {}
        self._ack_ms: dict[int, list[float]] = {}
        self._cpu_s = {name: read() for name, read in pids.items()}
        self._first_cpu_s = dict(self._cpu_s)
        self._looked_s = time.monotonic()

    def take(self, ticks: Iterable[Tick]) -> None:
        """Add what a driver noted."""
        for tick in ticks:
            second = self._second(tick.at_s)
            second.reads_sent += tick.reads_sent
            second.reads_acked += tick.reads_acked
            second.behind_s = round(max(second.behind_s, tick.behind_s), 4)
            self._ack_ms.setdefault(tick.at_s, []).extend(tick.ack_ms)

    def look(self, alarms: int) -> None:
        """Look at the processes: call about once a second."""
        now_s = time.monotonic()
        at_s = int(now_s - self._start_s)
        if at_s < 0:
            return
        second = self._second(at_s)
        second.alarms = alarms
        took_s = max(now_s - self._looked_s, 1e-3)
        for name, read in self._pids.items():
            value_s = read()
            second.cpu_share[name] = round(max(value_s - self._cpu_s[name], 0.0) / took_s, 3)
            self._cpu_s[name] = value_s
        self._looked_s = now_s
        if self._service_pid is not None:
            second.service_rss_mb = round(rss_mb(self._service_pid), 1)

    def cpu_s(self) -> dict[str, float]:
        """CPU-seconds of each process since the start."""
        return {name: round(value - self._first_cpu_s[name], 2) for name, value in self._cpu_s.items()}

    def series(self) -> list[Second]:
        """The seconds so far, without gaps."""
        for at_s, values in self._ack_ms.items():
            second = self._seconds[at_s]
            if values:
                second.ack_ms_p50, second.ack_ms_p99 = np.percentile(values, [50, 99]).round(2).tolist()
                second.ack_ms_max = round(max(values), 2)
        out: list[Second] = []
        for at_s in range(max(self._seconds, default=-1) + 1):
            second = self._seconds.get(at_s) or Second(float(at_s))
            second.alarms = second.alarms or (out[-1].alarms if out else 0)
            out.append(second)
        return out

    def last(self) -> Second:
        """The last full second."""
        full = int(time.monotonic() - self._start_s) - 1
        second = self._seconds.get(full) or Second(float(max(full, 0)))
        values = self._ack_ms.get(full)
        if values:
            second.ack_ms_p50, second.ack_ms_p99 = np.percentile(values, [50, 99]).tolist()
        return second

    def rates(self, seconds: int) -> list[int]:
        """Acknowledged reads of each of the last seconds."""
        full = int(time.monotonic() - self._start_s)
        return [s.reads_acked if (s := self._seconds.get(at)) else 0 for at in range(max(full - seconds, 0), full)]

    def _second(self, at_s: int) -> Second:
        return self._seconds.setdefault(max(at_s, 0), Second(float(max(at_s, 0))))


def cpu_readers(
    service_pid: int | None, postmaster_pid: int | None, driver_pids: list[int]
) -> dict[str, Callable[[], float]]:
    """Functions that give the CPU-seconds of each, for Watch."""
    out: dict[str, Callable[[], float]] = {"driver": lambda: sum(_alive_s(pid) for pid in driver_pids)}
    if service_pid is not None:
        out["service"] = lambda: _alive_s(service_pid)
    if postmaster_pid is not None:
        out["postgres"] = lambda: tree_s(postmaster_pid)
    return out


def _alive_s(pid: int) -> float:
    try:
        return process_s(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


class Terminal:
    """Live figures on a terminal; else a line now and then."""

    def __init__(self, console: Console, title: str, seconds: float) -> None:
        self._console, self._title, self._planned_s = console, title, seconds
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._next_line_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, watch: Watch, at_s: float, behind_s: float) -> None:
        """Show the last second."""
        second = watch.last()
        cpu = " ".join(f"{name} {share:.2f}" for name, share in sorted(second.cpu_share.items()))
        when = f"{max(at_s, 0):.0f} s" + (f" of {self._planned_s:.0f} s" if self._planned_s else "")
        if self._live is None:
            if at_s >= self._next_line_s:
                self._next_line_s = max(at_s, 0) + LINE_EVERY_S
                self._console.print(
                    f"{when}: {second.reads_acked:,} reads/s acknowledged, p99 {second.ack_ms_p99:.0f} ms, "
                    f"{second.alarms} alarms, behind {behind_s:.2f} s" + (f", cores: {cpu}" if cpu else ""),
                    highlight=False, soft_wrap=True,
                )  # fmt: skip
            return
        table = Table(box=None, show_header=False, title=self._title, title_justify="left")
        table.add_row("time", when)
        table.add_row("reads/s acknowledged", f"{second.reads_acked:,}  {_spark(watch.rates(40))}")
        table.add_row("ack from schedule", f"p50 {second.ack_ms_p50:.0f} ms  p99 {second.ack_ms_p99:.0f} ms")
        table.add_row("alarms paged", f"{second.alarms}")
        table.add_row("generator behind", f"{behind_s:.2f} s")
        if cpu:
            table.add_row("cores", f"{cpu}  service {second.service_rss_mb:.0f} MB")
        self._live.update(table)


def _spark(values: list[int]) -> str:
    top = max(values, default=0) or 1
    return "".join(SPARK[min(value * (len(SPARK) - 1) // top, len(SPARK) - 1)] for value in values)
