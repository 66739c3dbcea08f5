"""Dataclasses changed by what a YAML file gives: numbers, texts, choices, levels by name, lists.

What is not given stays as it was. Keys that are not known, values that are none, and what a dataclass itself refuses
are problems with a line. Numbers are not below 0, shares and probabilities not above 1; only temperatures may be
negative. Refuses to know what the fields mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import IntEnum
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import yaml

from meterwatch.errors import ConfigError
from meterwatch.yaml_nodes import Problems, line_of

T = TypeVar("T")
_INTEGER: Final = re.compile(r"-?\d{1,12}")
_NUMBER: Final = re.compile(r"-?(?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})(?:[eE]-?\d{1,2})?")
_SHARE: Final = re.compile(r"p_.*|.*_share|coverage_min|posterior_min|prior|guessed_max")
_NOUN: Final[dict[Any, str]] = {int: "a whole number", float: "a number", bool: "true or false"}
NONE: Final = "none"
"""In the place of an entry that has a name: it is left out."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Reads one file. fixed: fields that no file may change, by class name and field name."""

    problems: Problems
    fixed: frozenset[tuple[str, str]] = frozenset()

    def known(self, kind: Any) -> list[str]:
        """Fields of a dataclass that a file may give."""
        return [one.name for one in fields(kind) if one.init and (kind.__name__, one.name) not in self.fixed]

    def changed(self, base: T, node: yaml.Node | None, what: str, besides: tuple[str, ...] = ()) -> T:
        """`base` with what the mapping gives. besides: keys that are somebody else's. Never raises: see `problems`."""
        kind: Any = type(base)
        table = self.problems.table(node, what, [*besides, *self.known(kind)])
        hints = get_type_hints(kind)
        before = len(self.problems.found)
        given = {
            name: self._value(hints[name], getattr(base, name), value, f"{what}.{name}")
            for name, value in table.items()
            if name not in besides
        }
        if len(self.problems.found) > before:
            return base
        try:
            return replace(base, **given)  # type: ignore[type-var]  # a dataclass, by its caller
        except ConfigError as error:
            for text in error.problems:
                self.problems.add(line_for(node, text), f"{what}: {text}")
            return base

    def _value(self, hint: Any, before: Any, node: yaml.Node, what: str) -> Any:
        if is_dataclass(hint):
            return self.changed(before, node, what)
        arguments = get_args(hint)
        if get_origin(hint) is tuple and is_dataclass(arguments[0]):
            if isinstance(node, yaml.MappingNode) or "raise_pu" in self.known(arguments[0]):
                return self._by_name(arguments[0], before, node, what)
            return tuple(self._made(arguments[0], one, what) for one in self.problems.items(node, what))
        if get_origin(hint) is tuple:
            items = self.problems.items(node, what)
            return tuple(self._scalar(arguments[0], one, what) for one in items)
        if get_origin(hint) is Mapping:
            pairs = self.problems.table(node, what)
            return {self._key(arguments[0], k, v, what): self._scalar(arguments[1], v, what) for k, v in pairs.items()}
        return self._scalar(hint, node, what)

    def _by_name(self, kind: Any, before: tuple[Any, ...], node: yaml.Node, what: str) -> tuple[Any, ...]:
        """Entries that have names, each changed, added, or left out by NONE; levels by rising raise_pu."""
        found = {one.name: one for one in before}
        wrong = len(self.problems.found)
        for name, entry in self.problems.table(node, what).items():
            if isinstance(entry, yaml.ScalarNode) and entry.value == NONE:
                if found.pop(name, None) is None:
                    self.problems.add(
                        line_of(entry), f"{what} has no {name!r:.60} to leave out; there are {_few(found)}"
                    )
            elif name in found:
                found[name] = self.changed(found[name], entry, f"{what}.{name}")
            else:
                made = self._made(kind, entry, f"{what}.{name}", name=name)
                if made is not None:
                    found[name] = made
        if len(self.problems.found) > wrong:
            return before
        if "raise_pu" in self.known(kind):
            return tuple(sorted(found.values(), key=lambda one: float(one.raise_pu)))
        return tuple(found.values())

    def _made(self, kind: Any, node: yaml.Node, what: str, **own: Any) -> Any:
        """A new entry; None, with problems, if it is not whole."""
        table = self.problems.table(node, what, [name for name in self.known(kind) if name not in own])
        hints = get_type_hints(kind)
        given = own | {name: self._value(hints[name], None, value, f"{what}.{name}") for name, value in table.items()}
        try:
            return kind(**given)
        except TypeError:
            needed = [one.name for one in fields(kind) if _needed(one) and one.name not in given]
            self.problems.add(line_of(node), f"{what} lacks {', '.join(needed)}; a new entry gives all of them")
            return None

    def _key(self, hint: Any, key: str, node: yaml.Node, what: str) -> Any:
        return key if hint is str else self._choice(hint, key, node, what)

    def _scalar(self, hint: Any, node: yaml.Node, what: str) -> Any:
        text = self.problems.text(node, what)
        if text is None or hint is str:
            return text or ""
        if isinstance(hint, type) and issubclass(hint, IntEnum):
            return self._choice(hint, text, node, what)
        if hint is bool and text in ("true", "false"):
            return text == "true"
        if hint in (int, float) and (_INTEGER if hint is int else _NUMBER).fullmatch(text):
            number = hint(text)
            wrong = _out_of_range(what.rsplit(".", 1)[-1], number)
            if wrong:
                self.problems.add(line_of(node), f"{what} is {text}; expected {wrong}")
            return number
        self.problems.add(line_of(node), f"{what} is {text[:40]!r}; expected {_NOUN[hint]}")
        return None

    def _choice(self, hint: type[IntEnum], text: str, node: yaml.Node, what: str) -> Any:
        if text.upper() in hint.__members__:
            return hint[text.upper()]
        known = ", ".join(one.lower() for one in hint.__members__)
        self.problems.add(line_of(node), f"{what} is {text[:40]!r}; expected {known}")
        return None


def _out_of_range(name: str, number: float) -> str:
    """What was expected; empty: it is in range."""
    if not math.isfinite(number):
        return "a finite number"
    if number < 0 and not name.endswith("_c"):
        return "0 or more"
    return "at most 1" if number > 1 and _SHARE.fullmatch(name) else ""


def _needed(one: Any) -> bool:
    return one.init and one.default is MISSING and one.default_factory is MISSING


def _few(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"


def line_for(node: yaml.Node | None, text: str) -> int:
    """The line of the first thing in a mapping that a sentence speaks of; else where the mapping begins."""
    lines = dict(_lines(node))
    found = (lines[word] for word in re.findall(r"\w+", text) if word in lines)
    return next(found, 1 if node is None else line_of(node))


def _lines(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys in a node, and the names of entries of lists, with their lines; the outer ones last."""
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _lines(entry)
            if isinstance(entry, yaml.MappingNode):
                yield from ((value.value, line_of(value)) for key, value in entry.value if key.value == "name")
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _lines(value)
        yield from ((key.value, line_of(key)) for key, _ in node.value)
