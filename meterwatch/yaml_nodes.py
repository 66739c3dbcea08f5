"""YAML as a tree of nodes with their lines, for files that people write and that must say where they are wrong.

Refused with a line: keys given twice, anchors (a file of a few lines may become gigabytes), files larger than
BYTES_MAX, nesting deeper than DEPTH_MAX. A scalar is its text: `on` is no boolean here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from meterwatch.texts import visible

BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class Problems:
    """The problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Problem] = []

    def add(self, line: int, message: str) -> None:
        self.found.append(Problem(self.file, line, visible(message)))

    def text(self, node: yaml.Node | None, what: str) -> str | None:
        """The text of a scalar; None, and a problem, for anything else."""
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        if node is not None:
            self.add(line_of(node), f"{what} is no text; write {what}: value")
        return None

    def items(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if node is not None:
            self.add(line_of(node), f"{what} is no list; write its entries with - before them")
        return []

    def table(self, node: yaml.Node | None, what: str, known: Iterable[str] | None = None) -> dict[str, yaml.Node]:
        """Key -> node of a mapping; unknown keys and those given twice are problems."""
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.add(line_of(node), f"{what} is no table; write key: value")
            return {}
        found: dict[str, yaml.Node] = {}
        names = None if known is None else list(known)
        for key_node, value in node.value:
            key = self.text(key_node, f"a key of {what}")
            if key is None:
                continue
            if key in found:
                self.add(line_of(key_node), f"{key} is given twice; leave one out")
            elif names is not None and key not in names:
                self.add(line_of(key_node), f"{key!r} is not known in {what}; {near(key, names)}")
            else:
                found[key] = value
        return found


def near(key: str, names: Iterable[str]) -> str:
    """The nearest of the names, or all of them, in words."""
    names = list(names)
    found = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {found[0]}?" if found else f"known are {', '.join(names)}"


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark else 1


def line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def composed(path: Path, problems: Problems) -> yaml.Node | None:
    """The file's one document; None, with a problem, if it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except OSError as error:
        problems.add(1, f"cannot be read ({error.strerror})")
        return None
    if len(raw) > BYTES_MAX:
        problems.add(1, f"is larger than {BYTES_MAX} bytes; make several files of it")
        return None
    try:
        text = raw.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                problems.add(_line(event.start_mark), "anchors (& and *) are not read; write it out")
                return None
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:
                problems.add(_line(event.start_mark), f"more than {DEPTH_MAX} levels in each other")
                return None
        return yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError:
        problems.add(1, "is no UTF-8 text; save it as such")
    except yaml.MarkedYAMLError as error:
        problems.add(_line(error.problem_mark or error.context_mark), f"is no YAML: {error.problem}")
    except yaml.YAMLError as error:
        problems.add(1, f"is no YAML: {' '.join(str(error).split())}")
    except RecursionError:
        problems.add(1, "is nested too deeply")
    return None
