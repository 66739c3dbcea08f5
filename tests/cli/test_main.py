"""The program as it is installed: the core of gRPC, which writes to stderr by itself, is told to be silent in time."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from meterwatch.main import main

assert "grpc" not in sys.modules
sys.argv = ["meterwatch", "--help"]
with suppress(SystemExit):
    main()
import grpc

server = grpc.server(ThreadPoolExecutor(1))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials()) as channel, suppress(grpc.RpcError):
    channel.unary_unary("/nowhere/Nothing")(b"", timeout=5)
server.stop(None)
"""


def told(**environment: str) -> str:
    """What the core says on stderr of a handshake that fails."""
    own = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"} | environment
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=120, check=True).stderr


def test_the_core_of_grpc_writes_no_lines_of_its_own_unless_it_is_told_to() -> None:
    assert told() == ""
    assert "andshake" in told(GRPC_VERBOSITY="INFO")
