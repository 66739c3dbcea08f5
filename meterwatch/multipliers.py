"""Multipliers of instrument transformers over time: which one a read is to be taken with.

A multiplier holds for the intervals that end after its valid_from and not after its valid_to: an interval that ends
when the transformers are exchanged was measured through the old ones. Meters without an entry have 1.
"""

from __future__ import annotations

from typing import ClassVar

from meterwatch.dated import Dated


class Multipliers(Dated):
    """By slot and valid_from; the spans of one slot do not overlap."""

    __slots__ = ()
    missing: ClassVar[float] = 1.0
