"""Files of user rules: YAML in, sound rules out, and every problem of all files at once, with file and line.

The shape is vmalert's: groups of rules, each with alert, expr, for, keep_firing_for, labels, annotations; and with
`on`, what it looks at. Files that we ship are named shipped:NAME. Refuses to know how a rule is evaluated.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from meterwatch.episodes import Severity
from meterwatch.yaml_nodes import Problem, Problems, composed, line_of
from rules.user.columns import COLUMNS, On
from rules.user.expression import Wrong, names_of, parsed
from rules.user.model import RULES_MAX, WINDOW_S_MAX, UserRule
from rules.user.template import FIELDS, Template, template

SHIPPED: Final = "shipped:"
SHIPPED_DIRECTORY: Final = Path(__file__).parent / "data" / "rules"
FILES_MAX: Final = 100
LABELS_MAX: Final = 20
LABEL_CHARACTERS_MAX: Final = 100
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_LABEL: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DURATION: Final = re.compile(r"(?:\d{1,6}[smhd])+")
_GROUP_KEYS: Final = ("name", "on", "rules")
_RULE_KEYS: Final = ("alert", "on", "expr", "for", "keep_firing_for", "labels", "annotations")


@dataclass(frozen=True, slots=True)
class Placed:
    """A rule and where it stands."""

    rule: UserRule
    group: str
    file: str
    line: int


@dataclass(slots=True)
class RuleSet:
    """What some files say. With problems it is not put in force."""

    rules: list[Placed] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def on(self, kind: On) -> list[UserRule]:
        """The rules on one kind of asset, in the order of the files."""
        return [placed.rule for placed in self.rules if placed.rule.on is kind]


def shipped() -> list[str]:
    """The files that come with the service, as they are named in the configuration."""
    return [SHIPPED + path.stem for path in sorted(SHIPPED_DIRECTORY.glob("*.yaml")) if not path.stem.endswith("_test")]


def path_of(name: str) -> Path:
    """Where a file of rules is."""
    return SHIPPED_DIRECTORY / f"{name.removeprefix(SHIPPED)}.yaml" if name.startswith(SHIPPED) else Path(name)


def read_rules(names: Sequence[str]) -> RuleSet:
    """Read files, directories (their *.yaml) and shipped:NAME. Raises nothing: what is wrong is a problem."""
    found = RuleSet()
    for name in names:
        path = path_of(name)
        paths = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        for one in paths[:FILES_MAX]:
            shown = name if name.startswith(SHIPPED) else str(one)
            _read(one, shown, found)
        if len(paths) > FILES_MAX:
            found.problems.append(Problem(name, 1, f"{len(paths)} files; at most {FILES_MAX} are read"))
    first: dict[str, Placed] = {}
    for placed in found.rules:
        other = first.setdefault(placed.rule.name, placed)
        if other is not placed:
            text = f"{placed.rule.name} stands in {other.file}:{other.line} already; give it another name"
            found.problems.append(Problem(placed.file, placed.line, text))
    for kind, count in Counter(placed.rule.on for placed in found.rules).items():
        if count > RULES_MAX:
            last = found.rules[-1]
            found.problems.append(
                Problem(last.file, last.line, f"{count} rules on {kind}; at most {RULES_MAX} are evaluated")
            )
    return found


def seconds_of(text: str) -> int:
    """90s, 15m, 1h30m, 7d. ValueError for anything else."""
    if text.strip() == "0":
        return 0
    if not _DURATION.fullmatch(text.strip()):
        raise ValueError(f"{text[:40]!r} is no duration; write it like 90s, 15m, 1h30m or 7d")
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)([smhd])", text))


def _read(path: Path, shown: str, found: RuleSet) -> None:
    problems = Problems(shown)
    root = composed(path, problems)
    for group in problems.items(problems.table(root, "the file", ("groups",)).get("groups"), "groups"):
        table = problems.table(group, "a group", _GROUP_KEYS)
        name = problems.text(table.get("name"), "name") or ""
        on = table.get("on")
        for node in problems.items(table.get("rules"), "rules"):
            rule = _Rule(problems, node, on).read()
            if rule is not None:
                found.rules.append(Placed(rule, name, shown, line_of(node)))
    if not problems.found and not any(placed.file == shown for placed in found.rules):
        problems.add(1, "holds no rules; write groups: with rules: in each")
    found.problems += problems.found


class _Rule:
    """One rule of a file."""

    def __init__(self, problems: Problems, node: yaml.Node, on: yaml.Node | None) -> None:
        self._problems = problems
        self._node = node
        self._table = problems.table(node, "a rule", _RULE_KEYS)
        self._on = self._table.get("on", on)

    def read(self) -> UserRule | None:
        """The rule; None, with problems, if it is not sound."""
        before = len(self._problems.found)
        on = self._kind()
        name = self._text("alert", needed=True)
        if name is not None and not _NAME.fullmatch(name):
            self._add("alert", f"{name[:40]!r} is no name; expected letters, digits and _, a letter first, at most 63")
        expr = self._text("expr", needed=True)
        tree = None
        if expr is not None:
            try:
                tree = parsed(expr, COLUMNS[on])
            except Wrong as wrong:
                self._add("expr", f"expr, character {wrong.column}: {wrong.message}")
        for_s, keep_s = self._seconds("for"), self._seconds("keep_firing_for")
        if for_s + keep_s > WINDOW_S_MAX:
            at = "for" if for_s > keep_s else "keep_firing_for"
            self._add(at, f"for and keep_firing_for are {for_s + keep_s} s together; at most {WINDOW_S_MAX} s")
        labels, severity = self._labels()
        fields = dict.fromkeys([*FIELDS, *labels, *(names_of(tree) if tree else ())])
        annotations = self._annotations(list(fields), known=tree is not None)
        if len(self._problems.found) > before or name is None or expr is None or tree is None:
            return None
        return UserRule(name, on, " ".join(expr.split()), tree, for_s, keep_s, severity, labels, annotations)

    def _kind(self) -> On:
        text = self._problems.text(self._on, "on")
        if text is None:
            return On.METER
        if text not in set(On):
            self._problems.add(line_of(self._on or self._node), f"on is {text[:40]!r}; expected {', '.join(On)}")
            return On.METER
        return On(text)

    def _text(self, key: str, *, needed: bool = False) -> str | None:
        if needed and key not in self._table:
            self._problems.add(line_of(self._node), f"a rule without {key}; add it")
        return self._problems.text(self._table.get(key), key)

    def _add(self, key: str, message: str) -> None:
        self._problems.add(line_of(self._table[key]), message)

    def _seconds(self, key: str) -> int:
        text = self._text(key)
        try:
            return 0 if text is None else seconds_of(text)
        except ValueError as error:
            self._add(key, f"{key}: {error}")
            return 0

    def _labels(self) -> tuple[dict[str, str], Severity]:
        labels: dict[str, str] = {}
        severity = Severity.MEDIUM
        table = self._problems.table(self._table.get("labels"), "labels")
        if len(table) > LABELS_MAX:
            self._add("labels", f"{len(table)} labels; at most {LABELS_MAX}")
        for name, node in table.items():
            text = self._problems.text(node, name)
            if text is None:
                continue
            if not _LABEL.fullmatch(name) or len(text) > LABEL_CHARACTERS_MAX:
                limit = f"with at most {LABEL_CHARACTERS_MAX} characters"
                self._problems.add(line_of(node), f"{name[:40]!r} is no label; expected small letters, {limit}")
            elif name != "severity":
                labels[name] = text
            elif text.upper() in Severity.__members__:
                severity = Severity[text.upper()]
            else:
                known = ", ".join(one.lower() for one in Severity.__members__)
                self._problems.add(line_of(node), f"severity is {text[:40]!r}; expected {known}")
        return labels, severity

    def _annotations(self, fields: list[str], *, known: bool) -> dict[str, Template]:
        found: dict[str, Template] = {}
        table = self._problems.table(self._table.get("annotations"), "annotations")
        if len(table) > LABELS_MAX:
            self._add("annotations", f"{len(table)} annotations; at most {LABELS_MAX}")
        for name, node in table.items():
            text = self._problems.text(node, name)
            if text is None or not known:  # without its expression the fields of a rule are not known
                continue
            try:
                found[name] = template(text, fields)
            except Wrong as wrong:
                self._problems.add(line_of(node), f"{name[:40]}, character {wrong.column}: {wrong.message}")
        return found
