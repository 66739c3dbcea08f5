"""Ties a process to the one that starts it: the system ends it when its starter is gone, killed with -9 or not."""

from __future__ import annotations

import shutil
from typing import Literal


def tied(command: list[str], end_with: Literal["KILL", "TERM"]) -> list[str]:
    """The command, sent a signal when the thread that starts it ends: start it on a thread that lasts.

    RuntimeError without setpriv, which is part of util-linux.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise RuntimeError("the program setpriv is missing: install the package util-linux")
    return [setpriv, "--pdeathsig", end_with, "--", *command]
