"""A crowd of connections that say nothing takes the descriptors: open streams go on, newcomers come in after."""

from __future__ import annotations

import resource
import socket
from datetime import UTC, datetime
from pathlib import Path

from databases import Databases
from served import Raw, fresh_database
from service_process import ServiceProcess, import_grid, until
from test_stop import batch, meters

from meterwatch.v1 import ingest_pb2 as pb

START = datetime(2024, 11, 12, tzinfo=UTC)
SPARE = 40
"""Descriptors the service may open beside those it has."""


def opened(stream: Raw, epoch: int) -> bool:
    """Past Welcome and with the meters announced."""
    stream.send(pb.IngestRequest(hello=pb.Hello(head_end="HES-1", epoch=epoch)))
    welcomed = stream.answer().HasField("welcome")
    stream.send(pb.IngestRequest(dictionary=pb.Dictionary(meter=meters())))
    return welcomed and stream.answer().HasField("dictionary_ack")


def test_out_of_descriptors_the_streams_there_are_go_on_and_it_recovers(cluster: Databases, tmp_path: Path) -> None:
    with fresh_database(cluster) as dsn, ServiceProcess(dsn, START, tmp_path / "output") as service:
        service.start()
        import_grid(service.address)
        with Raw(service.address) as stream:
            assert opened(stream, 1)
            assert stream.ask(batch(1)).ack.accepted == 1
            used = service.descriptors()
            resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (used + SPARE, used + SPARE))
            crowd = [socket.socket() for _ in range(SPARE * 3)]
            for one in crowd:
                one.connect(("127.0.0.1", service.port))
            until(lambda: service.descriptors() >= used + SPARE - 2, "the descriptors are used up")
            for seq in range(2, 12):
                assert stream.ask(batch(seq)).ack.accepted == 1
            for one in crowd:
                one.close()
            until(lambda: service.descriptors() < used + SPARE - 2, "the crowd is gone")
            with Raw(service.address) as newcomer:
                assert opened(newcomer, 2)
                assert newcomer.ask(batch(20)).ack.accepted == 1
            assert stream.ask(batch(12)).ack.accepted == 1
