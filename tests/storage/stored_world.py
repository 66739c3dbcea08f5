"""A small stored world for the tests of readers: three meters, two transformers, reads and events."""

from typing import Any

import psycopg

from storage.arrays import moment

T0_US = 1_760_000_400_000_000  # on the quarter-hour grid
STEP_US = 900_000_000


def end_us(step: int) -> int:
    return T0_US + step * STEP_US


def fill(dsn: str, reads: list[tuple[Any, ...]], events: list[tuple[int, int, int]] | None = None) -> None:
    """Replace what is stored. A read: (slot, step, quality, import_wh, import_varh, voltage_a_v)."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "TRUNCATE reads, events, batches, meter_links, meter_transformers, transformer_feeders, meters,"
            " concentrators, transformers, feeders, head_ends"
        )
        connection.execute(
            "INSERT INTO transformers (transformer_id, transformer, rated_kva) VALUES (1, 'T1', 9), (2, 'T2', 9)"
        )
        connection.execute(
            "INSERT INTO meters (slot, meter, installed_at) VALUES (1, 'M-c', '2020-01-01'), (2, 'M-b', '2020-01-01'),"
            " (4, 'M-a', '2020-01-01')"
        )
        connection.execute(
            "INSERT INTO meter_transformers VALUES (1, 1, '2020-01-01', %s), (1, 2, %s, 'infinity'),"
            " (2, 1, '2020-01-01', 'infinity')",
            (moment(end_us(2)), moment(end_us(2))),
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO reads (slot, end_at, received_at, interval_s, version, quality, import_wh, import_varh,"
                " voltage_a_v) VALUES (%s, %s, %s, 900, 1, %s, %s, %s, %s)",
                [(slot, moment(end_us(step)), moment(end_us(step) + 7), *rest) for slot, step, *rest in reads],
            )
            cursor.execute("INSERT INTO read_stamps SELECT DISTINCT end_at FROM reads ON CONFLICT DO NOTHING")
            cursor.executemany(
                "INSERT INTO events (slot, at, received_at, code) VALUES (%s, %s, now(), %s)",
                [(slot, moment(at), code) for slot, at, code in events or []],
            )
