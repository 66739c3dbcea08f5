"""What a user rule is, once it is known to be sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from meterwatch.episodes import Severity
from rules.user.columns import On
from rules.user.expression import Node, names_of
from rules.user.template import Template

US: Final = 1_000_000
RULES_MAX: Final = 64
"""Of one kind of asset: one bit each in a word per asset."""
WINDOW_S_MAX: Final = 7 * 86_400
"""Longest sum of `for` and `keep_firing_for`: what late data may have to be judged over again."""
TYPE: Final = "USER"
LEVEL: Final = "FIRING"


def alarm_rule(name: str) -> str:
    """The rule of its alarms, as the book keys them."""
    return f"{TYPE}/{name}"


@dataclass(frozen=True, slots=True)
class UserRule:
    """One rule."""

    name: str
    on: On
    expr: str
    tree: Node
    for_s: int = 0
    """True for so much covered event time before it is told."""
    keep_firing_s: int = 0
    """False for so long before it is over."""
    severity: Severity = Severity.MEDIUM
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Template] = field(default_factory=dict)

    @property
    def alarm_rule(self) -> str:
        return alarm_rule(self.name)

    @property
    def shown(self) -> list[str]:
        """The columns whose values are kept with an alarm."""
        return names_of(self.tree)

    def same_answers(self, other: UserRule) -> bool:
        """True: the two find the same episodes."""
        mine = (self.name, self.on, self.tree, self.for_s, self.keep_firing_s)
        return mine == (other.name, other.on, other.tree, other.for_s, other.keep_firing_s)

    def told(self, asset: str, place: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Summary and evidence of an episode. place: district, feeder."""
        fields = {"asset": asset, "asset_kind": self.on.value, "rule": self.name, "severity": self.severity.name}
        fields |= dict(place) | {name: _figure(value) for name, value in values.items()} | dict(self.labels)
        annotations = {name: template.filled(fields) for name, template in self.annotations.items()}
        summary = annotations.get("summary") or f"{self.name}: {self.expr} at {asset}"
        evidence: dict[str, Any] = {"expr": self.expr, "values": dict(values)}
        evidence["thresholds"] = {"for_s": self.for_s, "keep_firing_for_s": self.keep_firing_s}
        if self.labels:
            evidence["labels"] = dict(self.labels)
        if annotations:
            evidence["annotations"] = annotations
        return summary, evidence


def _figure(value: Any) -> str:
    return "absent" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
