"""Starts PostgreSQL as a child that stops with us, even when we are killed with -9.

Linux can send a process a signal when its parent dies, but "parent" there means the thread that forked it. So each
postmaster gets a thread that starts it and then waits for it: the thread ends only after its child, or with the
whole process. The signal must be set after the change of user, which clears it; `setpriv` (util-linux, part of every
Debian) does that between the fork and PostgreSQL, without running Python code in a forked child.
"""

import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from storage.embedded.account import Account, clean_environment
from storage.embedded.errors import USE_A_URL, EmbeddedError

Lifetime = Literal["parent", "detached"]


class Postmaster:
    """A postmaster that we started.

    `lifetime="parent"`: it gets SIGINT (fast shutdown) when this process ends, however that happens.
    `lifetime="detached"`: it outlives us.
    """

    def __init__(
        self,
        command: Sequence[str],
        account: Account,
        lifetime: Lifetime,
        output: Path,
        extra_env: Mapping[str, str] | None,
    ) -> None:
        self._command = [*_death_signal(lifetime), *command]
        self._account = account
        self._output = output
        self._env = clean_environment(extra_env)
        self._forked = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        threading.Thread(target=self._run, name="postgres", daemon=True).start()
        self._forked.wait()
        if self._error is not None:
            raise EmbeddedError(f"PostgreSQL could not be started: {self._error}. {USE_A_URL}") from self._error

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def exit_status(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def _run(self) -> None:
        try:
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    self._command,
                    cwd="/",
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C on the terminal is for the service, which then stops us in order
                    **self._account.popen_options(),
                )
        except OSError as error:
            self._error = error
            return
        finally:
            self._forked.set()
        self._process.wait()


def _death_signal(lifetime: Lifetime) -> list[str]:
    if lifetime == "detached":
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedError(f"The program setpriv is missing: install the package util-linux. {USE_A_URL}")
    return [setpriv, "--pdeathsig", "INT", "--"]
