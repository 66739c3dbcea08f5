"""What people ask of views and functions in SQL, by lists of keys where they can be."""

from __future__ import annotations

from typing import Final

from asked import LOOKUPS, Asked, Lookup
from young_world import (
    ALARMS,
    DISTRICTS,
    METERS,
    START_US,
    TRANSFORMERS,
)

from storage.arrays import moment

_SPAN: Final = "end_at > %(first)s AND end_at <= %(last)s"
_WINDOWS: Final = "window_end > %(first)s AND window_end <= %(last)s"
QUESTIONS: Final[dict[str, tuple[str, int]]] = {
    "meter_reads": (f"WHERE meter = ANY(%(meters)s) AND {_SPAN}", 3 * METERS),
    "read_history": (f"WHERE slot = ANY(%(slots)s) AND {_SPAN}", 3 * METERS),
    "reads_as_of": (f"(%(last)s) WHERE slot = ANY(%(slots)s) AND {_SPAN}", 3 * METERS),
    "my_reads": (f"WHERE meter = ANY(%(meters)s) AND {_SPAN}", 3 * METERS),
    "my_meters": ("WHERE meter = ANY(%(meters)s)", METERS),
    "my_transformers": ("WHERE transformer = ANY(%(transformers)s)", TRANSFORMERS),
    "my_loads": (f"WHERE transformer = ANY(%(transformers)s) AND {_WINDOWS}", 3 * TRANSFORMERS),
    "my_alarms": ("WHERE alarm_id = ANY(%(alarms)s)", ALARMS),
    "my_districts": ("", DISTRICTS),
    "registry": ("WHERE meter = ANY(%(meters)s)", METERS),
    "meter_day_energy": ("WHERE meter = ANY(%(meters)s) AND day = %(day)s", METERS),
    "missing_intervals": ("WHERE meter = ANY(%(meters)s) AND day = %(day)s", 96 * METERS),
    "customer_interruptions": ("WHERE meter = ANY(%(meters)s)", 4 * METERS),
    "transformer_load_curve": (f"WHERE transformer = ANY(%(transformers)s) AND {_WINDOWS}", 6 * TRANSFORMERS),
    "transformer_forecast_curve": ("WHERE transformer = ANY(%(transformers)s)", TRANSFORMERS),
    "alarm_deliveries": ("WHERE alarm_id = ANY(%(alarms)s)", 2 * ALARMS),
    "alarm_receipts": ("WHERE alarm_id = ANY(%(alarms)s)", 2 * ALARMS),
    "district_losses": ("WHERE day = %(day)s AND district = 'D1'", TRANSFORMERS),
    "feeder_load_curve": ("(%(first)s, %(last)s)", 3 * TRANSFORMERS),
    "read_completeness": ("(%(first)s, %(last)s)", 3 * METERS),
    "reliability_indices": ("('district', 'day', %(day)s, %(day)s::date + 1)", 6 * METERS),
    "reliability_by_month": ("", 14 * 4 * METERS),
}
"""View or function -> how it is asked, and how many rows there are of that time: people's questions may go through
them, each a few times at most."""


def _question(name: str, how: str, rows: int) -> Lookup:
    async def call(ask: Asked) -> int:
        ends_us = ask.ends_us()
        given = {
            "meters": [f"M{slot}" for slot in ask.slots],
            "slots": ask.slots.tolist(),
            "transformers": [f"T{n}" for n in ask.transformers],
            "alarms": [f"A{n}" for n in ask.transformers],
            **{"first": moment(int(ends_us[0]) - 1), "last": moment(int(ends_us[-1])), "day": moment(START_US).date()},
        }
        with ask.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {name} {how}", given)
        return rows

    return call


LOOKUPS.update({name: _question(name, how, rows) for name, (how, rows) in QUESTIONS.items()})
