"""Profiles that operators write: named sets of thresholds of the rules and of the presentation of alarms, in YAML.

A profile is another one, shipped or of the same file, with some numbers changed. Read whole at a start: every problem
of the file at once, each with its line, and a file with one problem is not used. Nothing of it is in force before a
restart. Refuses to know what the numbers do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import yaml

from alarm.profile import ALARM_PROFILES, AlarmProfile
from meterwatch.alarms import AlarmType, names_a_type
from meterwatch.errors import ConfigError
from meterwatch.yaml_fields import Fields, line_for
from meterwatch.yaml_nodes import Problems, composed, line_of, near
from rules.ladder import OverloadProfile
from rules.profile import PROFILES, RuleProfile

P = TypeVar("P", RuleProfile, AlarmProfile)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_INHERITS: Final = "inherits"
PROFILES_MAX: Final = 100
ASSET_KINDS: Final = ("feeder", "transformer", "meter", "concentrator", "head_end", "service")
FIXED: Final = frozenset(
    {
        ("RuleProfile", "name"), ("AlarmProfile", "name"), ("Level", "name"),
        *(("OverloadProfile", name) for name in ("window_s", "ring_windows", "checkpoint_windows")),
        ("HotSpotProfile", "near_windows"),
    }
)  # fmt: skip
"""What a file may not change: names, and what says how loads are stored and how much is looked at again."""


class Profiles(NamedTuple):
    """Profiles by name, the shipped ones and those of a file."""

    rules: Mapping[str, RuleProfile]
    alarms: Mapping[str, AlarmProfile]


def known_profiles(path: Path | None) -> Profiles:
    """The shipped profiles, and those of this file. ConfigError with every problem of it, each with file and line."""
    if path is None:
        return Profiles(PROFILES, ALARM_PROFILES)
    problems = Problems(str(path))
    root = problems.table(composed(path, problems), "the file", ("profiles", "alarm_profiles"))
    fields = Fields(problems, FIXED)
    rules = _Section(fields, "profiles", root.get("profiles"), PROFILES, partial(_rules, fields)).read()
    alarms = _Section(
        fields, "alarm_profiles", root.get("alarm_profiles"), ALARM_PROFILES, partial(_alarms, fields)
    ).read()
    if not problems.found and not root:
        problems.add(1, "holds no profiles; write profiles: with a name and inherits: in each")
    if problems.found:
        raise ConfigError([str(one) for one in sorted(problems.found, key=lambda one: one.line)])
    return Profiles(rules, alarms)


class _Section(Generic[P]):
    """The profiles of one kind in a file."""

    def __init__(
        self,
        fields: Fields,
        what: str,
        node: yaml.Node | None,
        shipped: Mapping[str, P],
        changed: Callable[[P, yaml.Node, str, tuple[str, ...]], P],
    ) -> None:
        self._problems: Problems = fields.problems
        self._what = what
        self._changed: Callable[[P, yaml.Node, str, tuple[str, ...]], P] = changed
        self._given = self._problems.table(node, what)
        self._found: dict[str, P] = dict(shipped)
        self._shipped: Mapping[str, P] = shipped
        self._under_way: list[str] = []
        """Names being made, each inheriting the next."""

    def read(self) -> dict[str, P]:
        """All profiles there are, by name."""
        if len(self._given) > PROFILES_MAX:
            first = next(iter(self._given.values()))
            self._problems.add(line_of(first), f"{self._what} are {len(self._given)}; at most {PROFILES_MAX} are read")
            return self._found
        for name, node in self._given.items():
            if not _NAME.fullmatch(name):
                expected = "expected up to 63 of A-Z, a-z, 0-9, _ . and -, a letter first"
                self._problems.add(line_of(node), f"{name[:40]!r} is no name; {expected}")
            elif name in self._shipped:
                self._problems.add(line_of(node), f"{name} is a shipped profile; give yours a name of its own")
            else:
                self._of(name, node)
        return self._found

    def _of(self, name: str, node: yaml.Node) -> P:
        if name in self._found:
            return self._found[name]
        self._under_way.append(name)
        base = self._base(name, node)
        made = replace(self._changed(base, node, f"{self._what}.{name}", (_INHERITS,)), name=name)
        self._under_way.pop()
        self._found[name] = made
        return made

    def _base(self, name: str, node: yaml.Node) -> P:
        """What it inherits; of nothing, or of what is not there, `default`."""
        entry = _entry(node, _INHERITS)
        above: str | None = self._problems.text(entry, _INHERITS)
        if entry is None or above is None:
            return self._shipped["default"]
        if above in self._shipped:
            return self._shipped[above]
        if above in self._under_way:
            circle = " -> ".join((*self._under_way, above))
            self._problems.add(line_of(entry), f"{self._what}.{name} inherits itself ({circle}); leave one out")
        elif above in self._given and _NAME.fullmatch(above):
            return self._of(above, self._given[above])
        else:
            hint = near(above, [*self._shipped, *self._given])
            self._problems.add(
                line_of(entry), f"{self._what}.{name} inherits {above[:40]!r}, which is not there; {hint}"
            )
        return self._shipped["default"]


def _entry(node: yaml.Node, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _rules(fields: Fields, base: RuleProfile, node: yaml.Node, what: str, besides: tuple[str, ...]) -> RuleProfile:
    """What one section can say by itself its class refuses; here what the ladders of load say together."""
    made = fields.changed(base, node, what, besides)
    if made is base:
        return base
    entry = _entry(node, "overload")
    for text in _unfit(made.overload):
        fields.problems.add(line_for(entry or node, text), f"{what}.overload: {text}")
    return made


def _unfit(overload: OverloadProfile) -> list[str]:
    needed = ("reverse_levels", "feeder_levels")
    found = [f"{name} is empty; leave one level" for name in needed if not getattr(overload, name)]
    if found:
        return found
    ladders = ["of_reverse", "of_feeders"]
    ladders += ["of_phases"] * bool(overload.phase_levels) + ["of_unbalance"] * bool(overload.unbalance_levels)
    for name in ladders:
        try:
            getattr(overload, name)
        except ConfigError as error:
            found += [f"{name.removeprefix('of_')}: {text}" for text in error.problems]
    return found


def _alarms(fields: Fields, base: AlarmProfile, node: yaml.Node, what: str, besides: tuple[str, ...]) -> AlarmProfile:
    """The classes given go before those inherited: the first that matches counts."""
    made = fields.changed(base, node, what, besides)
    if made is base:
        return base
    for one in made.classes:
        if one.rule and not names_a_type(one.rule):
            text = f"{what}: rule is {one.rule[:40]!r}; {near(one.rule, AlarmType)}"
            fields.problems.add(_line_of_value(node, one.rule), text)
        if one.asset_kind and one.asset_kind not in ASSET_KINDS:
            text = f"{what}: asset_kind is {one.asset_kind[:40]!r}; {near(one.asset_kind, ASSET_KINDS)}"
            fields.problems.add(_line_of_value(node, one.asset_kind), text)
    for field in ("one_call", "for_planning"):
        for name in getattr(made, field):
            if not names_a_type(name):
                text = f"{what}: {field} has {name[:40]!r}; {near(name, AlarmType)}"
                fields.problems.add(_line_of_value(node, name), text)
    if _entry(node, "classes") is None:
        return made
    return replace(made, classes=(*made.classes, *base.classes))


def _line_of_value(node: yaml.Node, value: str) -> int:
    for part in _scalars(node):
        if part.value == value:
            return line_of(part)
    return line_of(node)


def _scalars(node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):
                yield from _scalars(inner)
