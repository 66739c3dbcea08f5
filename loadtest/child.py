"""A process that takes orders over a pipe and answers, seen from the one that started it.

Promises: an answer is of the kind asked for and comes within the time allowed; what failed in the process is raised
here in its own words; closing ends it, by force after 10 s. Refuses to know what is ordered and done.

The process's main gets its end of the pipe first. It says "" when an order needs no other answer, another string for
what went wrong, and ends when the pipe does (EOFError).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any, Final, TypeVar

END_S: Final = 10.0

_T = TypeVar("_T")


class Child:
    """One process. Close it."""

    def __init__(
        self, name: str, main: Callable[..., None], *arguments: Any, answers_in_s: float | None = None
    ) -> None:
        """main(pipe, *arguments) runs in it. answers_in_s: how long to wait for an answer; None: for ever."""
        context = multiprocessing.get_context("spawn")
        self._name, self._answers_in_s = name, answers_in_s
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=main, args=(other, *arguments), name=name, daemon=True)
        self._process.start()
        other.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, order: object) -> None:
        """Give an order."""
        self._pipe.send(order)

    def said(self) -> bool:
        """Whether an answer waits."""
        return self._pipe.poll()

    def answer(self, kind: type[_T]) -> _T:
        """The next answer. RuntimeError: it failed, has ended or says nothing."""
        try:
            if not self._pipe.poll(self._answers_in_s):
                raise RuntimeError(f"the {self._name} gave no answer for {self._answers_in_s:g} s")
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(f"the {self._name} has ended; see its message above") from None
        if isinstance(answer, str) and answer:
            raise RuntimeError(f"the {self._name} failed: {answer}")
        assert isinstance(answer, kind), f"the {self._name} answered {type(answer).__name__}, expected {kind.__name__}"
        return answer

    def ask(self, order: object, kind: type[_T]) -> _T:
        """Give an order and wait for its answer."""
        self.send(order)
        return self.answer(kind)

    def obey(self, order: object) -> None:
        """Give an order and wait until it is done."""
        self.ask(order, str)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
