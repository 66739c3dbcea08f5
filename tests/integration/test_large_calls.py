"""A flood of large calls: what the service holds of it has a bound, each call is answered, and nobody else notices."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import grpc
from databases import Databases
from raw_flood import Flood
from served import fresh_database
from service_process import ENOUGH_S, ServiceProcess, import_grid
from test_stop import meters

from meterwatch.clock import US
from meterwatch.config import Server
from meterwatch.v1 import alarms_pb2, alarms_pb2_grpc
from meterwatch.v1 import ingest_pb2 as pb

START = datetime(2024, 11, 12, tzinfo=UTC)
CALLS = 200
LARGE = Server().message_bytes_max - 1024
GROWTH_MB_MAX = 200.0
"""Of the 32 MiB that are received at once, up to three times; and of 64 KiB of each of the others."""


class Viewer(threading.Thread):
    """Asks for the list of alarms again and again, and keeps how each call ended."""

    def __init__(self, address: str) -> None:
        super().__init__(name="viewer")
        self.ends: list[str] = []
        self.over = threading.Event()
        self._address = address

    def run(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            ask = alarms_pb2_grpc.AlarmsStub(channel).ListAlarms  # type: ignore[no-untyped-call]  # generated
            while not self.over.is_set():
                try:
                    ask(alarms_pb2.ListAlarmsRequest(), timeout=ENOUGH_S)
                    self.ends.append("OK")
                except grpc.RpcError as error:
                    self.ends.append(error.code().name)


def peak_mb(pid: int) -> float:
    """The most memory a process has had since its start."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def test_a_flood_of_large_calls_has_a_bound_in_memory_and_each_is_answered(cluster: Databases, tmp_path: Path) -> None:
    with fresh_database(cluster) as dsn, ServiceProcess(dsn, START, tmp_path / "output") as service:
        service.start()
        import_grid(service.address)
        at_us = int(START.timestamp()) * US - 3600 * US
        beginnings = [
            pb.SendEventsRequest(
                head_end="HES-1", epoch=1, seq=seq, meter=meters()[:1], meter_index=[0], at_us=[at_us + seq], code=[5]
            ).SerializeToString()
            + varint(1000 << 3 | 2)  # a field that no version knows, as long as the rest
            + varint(LARGE)
            for seq in range(1, CALLS + 1)
        ]
        viewer = Viewer(service.address)
        viewer.start()
        try:
            before_mb = peak_mb(service.pid)
            with Flood(service.address, "/meterwatch.v1.Ingest/SendEvents", beginnings, bytes(LARGE)) as flood:
                ends = flood.run(2 * ENOUGH_S)
            grown_mb = peak_mb(service.pid) - before_mb
        finally:
            viewer.over.set()
            viewer.join(ENOUGH_S)
        assert set(ends) <= {"OK", "RESOURCE_EXHAUSTED"}, ends
        assert "OK" in ends
        told = [said for end, said in flood.ends.values() if end != "OK"]
        assert all(b"turn to be received" in said or b"wait for the database" in said for said in told)
        assert set(viewer.ends) == {"OK"}
        assert grown_mb < GROWTH_MB_MAX
