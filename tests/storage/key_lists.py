"""Where the product says SQL with a list of keys, read from its source: every string of it that is not a docstring.

A string with holes (an f-string, or one for format()) is known by the text between them, in its order.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from told_plans import PRODUCT, ROOT

KEYED = re.compile(r"\bANY\s*\(|\bunnest\s*\(|\bLATERAL\b|&&\s*%")
LEFT_OUT = ("meterwatch/devtools/",)
"""Tools of those who work on the product."""
_HOLE = "\0"
_FORMAT = re.compile(r"\{\w*\}")
_PARAMETER = re.compile(r"%(?:\(\w+\))?[sbt]")


class KeyList(NamedTuple):
    """A string of the source."""

    file: str
    line: int
    text: str
    """Holes are \\0."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What a statement made of it looks like when PostgreSQL tells of it, white space folded."""
        parts = []
        for part in self.text.split(_HOLE):
            words = [
                re.sub(r"\\?%%", "%", r"\$\d+".join(re.escape(piece) for piece in _PARAMETER.split(word)))
                for word in part.split()
            ]
            parts.append(r"\s".join(words))
        return re.compile(".*?".join(parts))


def key_lists() -> Iterator[KeyList]:
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(LEFT_OUT) and KEYED.search(source := path.read_text()):
                yield from (
                    KeyList(name, line, text) for line, text in _strings(ast.parse(source)) if KEYED.search(text)
                )


def _strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings below a node with their lines, but not those that only stand there."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else _HOLE for part in child.values)
            yield child.lineno, _FORMAT.sub(_HOLE, "".join(map(str, parts)))
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.lineno, _FORMAT.sub(_HOLE, child.value)
        else:
            yield from _strings(child)
