"""Texts with fields in braces: {asset} has {voltage_max_v} V. No code, no format, nothing but these names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from rules.user.expression import Wrong

CHARACTERS_MAX: Final = 500
FIELDS: Final = ("asset", "asset_kind", "rule", "severity", "district", "feeder")
"""Known in every rule; beside them its labels and the columns of its expression."""
_PART: Final = re.compile(r"\{([^{}]*)\}|([{}])")
_LABEL: Final = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Template:
    """Pieces of text and, in turn, names of fields."""

    pieces: tuple[str, ...]

    def filled(self, fields: Mapping[str, str]) -> str:
        """The text; a field that has no value here is left empty."""
        return "".join(fields.get(piece, "") if at % 2 else piece for at, piece in enumerate(self.pieces))


def template(text: str, known: Collection[str]) -> Template:
    """Read a text. Wrong if it names another field, or has a brace that is none."""
    if len(text) > CHARACTERS_MAX:
        raise Wrong(f"{len(text)} characters; at most {CHARACTERS_MAX} are read")
    pieces, at = [], 0
    for found in _PART.finditer(text):
        name = (found[1] or "").strip()
        if found[2] or not _LABEL.fullmatch(name) or name not in known:
            raise Wrong(
                f"{found[0]!r} is no field; known are {', '.join('{' + one + '}' for one in known)}", found.start() + 1
            )
        pieces += [text[at : found.start()], name]
        at = found.end()
    return Template((*pieces, text[at:]))
