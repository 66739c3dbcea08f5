"""The program `meterwatch`: what has to be said before gRPC is loaded, then the command line."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line.

    gRPC's C core writes to stderr by itself, from threads that serve, and waits for who reads it: only what is broken.
    It looks at this once, when it is loaded.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from meterwatch.cli import app

    app()
