"""What the registry import and the asset lists say to PostgreSQL, as data: one entry per kind.

Promises: the keys are those of meterwatch.registry_csv.KINDS, the copied columns the fields of its rows in order.
Refuses to know when and in which transaction it is said (storage.registry).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, LiteralString, NamedTuple


class Merge(NamedTuple):
    """How the rows of one kind of file become rows of its table."""

    table: LiteralString
    key: LiteralString
    name: LiteralString
    copied: LiteralString
    """Columns of the temporary table: those of the CSV row, then file and line."""
    source: LiteralString
    """Query over the temporary table `arrived` as a, parents resolved to ids."""
    values: tuple[LiteralString, ...]
    """Columns of the table that the file sets; none: it only says something of rows that are there."""


class Membership(NamedTuple):
    """An effective-dated table: `values` of `owner` from valid_from to valid_to."""

    table: LiteralString
    owner: LiteralString
    values: tuple[LiteralString, ...]
    first_from: LiteralString
    """SQL over the staged row: from when the very first membership is valid; NULL: from that of the import on."""


MERGES: Final[dict[str, Merge]] = {
    "head_ends": Merge(
        "head_ends",
        "head_end_id",
        "head_end",
        "head_end text, time_zone text, late_window_days integer",
        "SELECT a.* FROM arrived a",
        ("time_zone", "late_window_days"),
    ),
    "feeders": Merge(
        "feeders",
        "feeder_id",
        "feeder",
        "feeder text, substation text, district text, ampacity_a real",
        "SELECT a.* FROM arrived a",
        ("substation", "district", "ampacity_a"),
    ),
    "transformers": Merge(
        "transformers",
        "transformer_id",
        "transformer",
        "transformer text, feeder text, rated_kva real, winding text, district text",
        "SELECT a.*, f.feeder_id FROM arrived a LEFT JOIN feeders f USING (feeder)",
        ("rated_kva", "winding", "district"),
    ),
    "concentrators": Merge(
        "concentrators",
        "concentrator_id",
        "concentrator",
        "concentrator text, head_end text, comm_mode text",
        "SELECT a.*, h.head_end_id FROM arrived a LEFT JOIN head_ends h USING (head_end)",
        ("head_end_id", "comm_mode"),
    ),
    "meters": Merge(
        "meters",
        "slot",
        "meter",
        "meter text, transformer text, phases text, nominal_v real, rated_a real, contract_kw real, multiplier real,"
        " interval_s integer, installed_on timestamptz, terminal_type text, comm_mode text, concentrator text,"
        " head_end text",
        "SELECT a.*, t.transformer_id, c.concentrator_id, h.head_end_id,"
        " CASE WHEN date_trunc('day', m.installed_at, 'UTC') = a.installed_on THEN m.installed_at"
        " ELSE a.installed_on END AS installed_at"  # service_times may know the hour of that day
        " FROM arrived a LEFT JOIN meters m USING (meter) LEFT JOIN transformers t USING (transformer)"
        " LEFT JOIN concentrators c USING (concentrator)"
        " LEFT JOIN head_ends h ON h.head_end = a.head_end",
        (
            "phases",
            "nominal_v",
            "rated_a",
            "contract_kw",
            "multiplier",
            "interval_s",
            "installed_at",
            "terminal_type",
        ),
    ),
    "registers": Merge(
        "meters",
        "slot",
        "meter",
        "meter text, device text, digits smallint, lsb_wh real",
        "SELECT a.*, m.installed_at FROM arrived a JOIN meters m USING (meter)",
        (),
    ),
    "check_meters": Merge(
        "meters",
        "slot",
        "meter",
        "meter text, transformer text",
        "SELECT a.*, m.installed_at, t.transformer_id FROM arrived a JOIN meters m USING (meter)"
        " LEFT JOIN transformers t USING (transformer)",
        (),
    ),
    "thermal": Merge(
        "transformer_thermal",
        "thermal_id",
        "transformer",
        "transformer text, oil_rise_k double precision, hot_spot_rise_k double precision, loss_ratio double precision,"
        " oil_exponent double precision, winding_exponent double precision, oil_time_constant_s double precision,"
        " winding_time_constant_s double precision",
        "SELECT * FROM arrived",
        (
            "oil_rise_k",
            "hot_spot_rise_k",
            "loss_ratio",
            "oil_exponent",
            "winding_exponent",
            "oil_time_constant_s",
            "winding_time_constant_s",
        ),
    ),
    "thermal_types": Merge(
        "transformers",
        "transformer_id",
        "transformer",
        "transformer text, thermal_type text",
        "SELECT a.* FROM arrived a",
        (),
    ),
    "service_times": Merge(
        "meters",
        "slot",
        "meter",
        "meter text, installed timestamptz, retired timestamptz",
        "SELECT a.*, coalesce(a.installed, m.installed_at) AS installed_at,"
        " coalesce(a.retired, 'infinity') AS retired_at FROM arrived a JOIN meters m USING (meter)",
        ("installed_at", "retired_at"),
    ),
}

MEMBERSHIPS: Final[dict[str, tuple[Membership, ...]]] = {
    "transformers": (
        Membership("transformer_feeders", "transformer_id", ("feeder_id",), "timestamptz '2000-01-01 00:00:00+00'"),
    ),
    "meters": (
        Membership("meter_transformers", "slot", ("transformer_id",), "installed_at"),
        Membership("meter_multipliers", "slot", ("multiplier",), "CASE WHEN added THEN installed_at END"),
        Membership("meter_contracts", "slot", ("contract_kw",), "CASE WHEN added THEN installed_at END"),
        Membership("meter_links", "slot", ("head_end_id", "concentrator_id", "comm_mode"), "installed_at"),
    ),
    "registers": (Membership("meter_registers", "slot", ("device", "digits", "lsb_wh"), "installed_at"),),
    "check_meters": (Membership("check_meters", "slot", ("transformer_id",), "installed_at"),),
    "thermal_types": (
        Membership(
            "transformer_thermal_types", "transformer_id", ("thermal_type",), "timestamptz '2000-01-01 00:00:00+00'"
        ),
    ),
}


def tables_of(kinds: Collection[str]) -> list[LiteralString]:
    """Tables that files of these kinds write."""
    memberships = (one for kind in kinds for one in MEMBERSHIPS.get(kind, ()))
    return sorted({MERGES[kind].table for kind in kinds} | {one.table for one in memberships})


ASSET_QUERIES: Final[dict[str, LiteralString]] = {
    "feeder": "SELECT f.feeder AS name, '' AS parent, f.substation, f.district, f.ampacity_a FROM feeders f",
    "transformer": "SELECT t.transformer AS name, coalesce(f.feeder, '') AS parent, f.feeder, t.rated_kva, t.winding,"
    " t.district FROM transformers t LEFT JOIN transformer_feeders m ON m.transformer_id = t.transformer_id"
    " AND m.valid_to = 'infinity' LEFT JOIN feeders f USING (feeder_id)",
    "concentrator": "SELECT c.concentrator AS name, coalesce(h.head_end, '') AS parent, h.head_end, c.comm_mode"
    " FROM concentrators c LEFT JOIN head_ends h USING (head_end_id)",
    "head_end": "SELECT h.head_end AS name, '' AS parent, h.time_zone, h.late_window_days FROM head_ends h",
    "meter": "SELECT m.meter AS name, coalesce(t.transformer, '') AS parent, t.transformer, m.phases, m.nominal_v,"
    " m.rated_a, m.contract_kw, m.multiplier, m.interval_s, (m.installed_at AT TIME ZONE 'UTC')::date AS installed_on,"
    " m.terminal_type, l.comm_mode, c.concentrator, h.head_end FROM meters m"
    " LEFT JOIN meter_transformers mt ON mt.slot = m.slot AND mt.valid_to = 'infinity'"
    " LEFT JOIN transformers t USING (transformer_id)"
    " LEFT JOIN meter_links l ON l.slot = m.slot AND l.valid_to = 'infinity'"
    " LEFT JOIN concentrators c USING (concentrator_id) LEFT JOIN head_ends h ON h.head_end_id = l.head_end_id",
}
ASSET_KINDS: Final = tuple(ASSET_QUERIES)

ASSETS_OF: Final[dict[str, LiteralString]] = {
    "feeder": "district = ANY(%(districts)s)",
    "transformer": "district = ANY(%(districts)s)",
    "concentrator": "false",
    "head_end": "false",
    "meter": "parent IN (SELECT transformer FROM transformers WHERE district = ANY(%(districts)s))",
}
"""What of each kind belongs to some districts, as a condition on its query above."""
