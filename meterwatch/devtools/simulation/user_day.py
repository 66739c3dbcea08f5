"""User rules for the days that have some: one on meters, one on transformers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from meterwatch.user_rules import RuleSet, read_rules

FILE: Final = """
groups:
  - name: simulated
    rules:
      - alert: draws_much
        on: meter
        expr: import_kw > 2
        for: 30m
        keep_firing_for: 15m
        annotations: {summary: "{asset}: {import_kw} kW"}
      - alert: without_supply
        on: meter
        expr: supply_off
        annotations: {summary: "{asset}: off"}
      - alert: nearly_full
        on: transformer
        expr: load_ratio > 0.9 and coverage > 0.9
        for: 15m
        annotations: {summary: "{asset}: {load_ratio} of its rating"}
"""


def _read() -> RuleSet:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "simulated.yaml"
        path.write_text(FILE)
        found = read_rules([str(path)])
    assert not found.problems, found.problems
    return found


USER_RULES: Final = _read()
