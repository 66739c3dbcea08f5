"""What the bench asks the database beside the measured path: slots, chunks, sizes, versions, its process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import psycopg
from numpy.typing import NDArray

from loadtest.cpu import parent_of
from loadtest.fleet import Fleet
from meterwatch.quality import Origin

_SIZE: Final = """
SELECT coalesce(sum(total_bytes), 0)::bigint, coalesce(sum(table_bytes + toast_bytes), 0)::bigint
FROM timescaledb_information.chunks JOIN chunks_detailed_size('reads') USING (chunk_schema, chunk_name)
WHERE hypertable_name = 'reads' AND range_start = %s
"""
_SUM_LOADS: Final = """
INSERT INTO transformer_loads (transformer_id, window_end, wh, varh, covered_weight_s, expected_weight_s)
SELECT transformer_id, end_at, sum(import_wh), sum(import_wh) / 3, count(*) * 900000, count(*) * 900000
FROM reads JOIN meter_transformers USING (slot) WHERE end_at > %s AND end_at <= %s GROUP BY 1, 2 ORDER BY 2, 1
"""
_DAY: Final = """
SELECT end_at, import_kwh, voltage_a_v, current_a_a, quality FROM meter_reads
WHERE meter = %s AND end_at > %s AND end_at <= %s ORDER BY end_at
"""
_MONTH: Final = """
SELECT window_end, kw, kva, share_of_rating, coverage FROM transformer_load_curve
WHERE transformer = %s AND window_end > %s AND window_end <= %s ORDER BY window_end
"""


def embedded_url(data_dir: Path) -> str:
    """URL of the database a service keeps in data_dir, from the file PostgreSQL itself leaves there."""
    lines = (data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()
    return f"postgresql://meterwatch@/meterwatch?host={quote(lines[4], safe='')}&port={lines[3]}"


class Database:
    """One connection for questions. Close it."""

    def __init__(self, dsn: str) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC")

    def close(self) -> None:
        self._connection.close()

    def postmaster(self) -> int:
        """Process id of PostgreSQL, which must be on this machine."""
        return parent_of(self._connection.info.backend_pid)

    def versions(self) -> dict[str, str]:
        """Of PostgreSQL and TimescaleDB, with its edition."""
        row = self._connection.execute(
            "SELECT current_setting('server_version'), extversion, current_setting('timescaledb.license')"
            " FROM pg_extension WHERE extname = 'timescaledb'"
        ).fetchone()
        assert row is not None
        return {"postgresql": row[0], "timescaledb": row[1], "edition": row[2]}

    def settings(self) -> dict[str, str]:
        """Settings that differ from PostgreSQL's own defaults and bear on the figures."""
        found = self._connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name IN ('shared_buffers', 'max_wal_size',"
            " 'wal_compression', 'synchronous_commit', 'fsync', 'full_page_writes', 'autovacuum', 'wal_buffers',"
            " 'checkpoint_timeout', 'huge_pages_status', 'data_checksums') ORDER BY name"
        ).fetchall()
        return dict(found)

    def slots(self, fleet: Fleet) -> NDArray[np.int32]:
        """Slot of each meter of the fleet. int32 [meters]."""
        found = dict(self._connection.execute("SELECT meter, slot FROM meters").fetchall())
        return np.array([found[fleet.name(meter)] for meter in range(fleet.meters)], np.int32)

    def usual_quality(self) -> int:
        """Quality word most stored reads carry."""
        row = self._connection.execute("SELECT mode() WITHIN GROUP (ORDER BY quality) FROM reads").fetchone()
        assert row is not None
        return int(row[0])

    def make_chunk(self, day_us: int) -> None:
        """Have the chunk of a day there before the clock starts."""
        at = datetime.fromtimestamp(day_us / 1e6, UTC)
        with self._connection.transaction():
            self._connection.execute(
                "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version)"
                " VALUES (%s, %s, -1, 900, 0, 1)",
                (at, at),
            )
            self._connection.execute("DELETE FROM reads WHERE slot = -1 AND end_at = %s", (at,))

    def chunk_bytes(self, day_us: int) -> tuple[int, int]:
        """(bytes with indexes, bytes of the table alone) of a day's chunk."""
        day = datetime.fromtimestamp(day_us / 1e6, UTC)
        row = self._connection.execute(_SIZE, (day,)).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def rows_of_day(self, day_us: int) -> int:
        """Reads stored of one day."""
        day = datetime.fromtimestamp(day_us / 1e6, UTC)
        row = self._connection.execute(
            "SELECT count(*) FROM reads WHERE end_at >= %s AND end_at < %s", (day, day + timedelta(days=1))
        ).fetchone()
        assert row is not None
        return int(row[0])

    def rows_between(self, from_us: int, to_us: int) -> int:
        """Reads stored with from_us < end <= to_us, without those the service itself estimated of what was not sent."""
        row = self._connection.execute(
            "SELECT count(*) FROM reads WHERE end_at > %s AND end_at <= %s AND (quality >> 24) & 15 <> %s",
            (_moment(from_us), _moment(to_us), Origin.ESTIMATED),
        ).fetchone()
        assert row is not None
        return int(row[0])

    def sum_loads(self, from_us: int, to_us: int) -> None:
        """Store the loads of the transformers that follow from reads with from_us < end <= to_us."""
        self._connection.execute(_SUM_LOADS, (_moment(from_us), _moment(to_us)))

    def analyze(self) -> None:
        """Do now what autovacuum does within minutes: who reads a row first would else log its page."""
        self._connection.execute("VACUUM (ANALYZE) reads")
        self._connection.execute("VACUUM (ANALYZE) transformer_loads")
        self.checkpoint()

    def day(self, meter: str, from_us: int, to_us: int) -> int:
        """Ask for the reads of a meter with from_us < end <= to_us; how many there are."""
        return len(self._connection.execute(_DAY, (meter, _moment(from_us), _moment(to_us))).fetchall())

    def month(self, transformer: str, from_us: int, to_us: int) -> int:
        """Ask for the load curve of a transformer; how many windows it has."""
        return len(self._connection.execute(_MONTH, (transformer, _moment(from_us), _moment(to_us))).fetchall())

    def loads_owed(self) -> int:
        """Evaluated batches whose loads are not stored yet."""
        row = self._connection.execute("SELECT count(*) FROM transformer_loads_owed").fetchone()
        return int(row[0]) if row else 0

    def fill_loads(self, windows: int) -> int:
        """Have loads of so many windows up to the newest: copies of the oldest there are. Return the cells stored."""
        with self._connection.transaction():
            self._connection.execute(
                "INSERT INTO transformer_loads (window_end, transformer_id, wh, varh, covered_weight_s,"
                " expected_weight_s) SELECT l.window_end - n * interval '15 minutes', l.transformer_id, l.wh, l.varh,"
                " l.covered_weight_s, l.expected_weight_s FROM transformer_loads l"
                " JOIN (SELECT min(window_end) AS first, max(window_end) AS last FROM transformer_loads"
                "       WHERE window_end > (SELECT max(window_end) FROM transformer_loads) - interval '1 day') AS span"
                " ON l.window_end = span.first CROSS JOIN generate_series(1, %s) AS n"
                " WHERE span.first - n * interval '15 minutes' > span.last - %s * interval '15 minutes'"
                " ON CONFLICT DO NOTHING",
                (windows, windows),
            )
            row = self._connection.execute("SELECT count(*) FROM transformer_loads").fetchone()
        self._connection.execute("VACUUM ANALYZE transformer_loads")
        return int(row[0]) if row else 0

    def checkpoint(self) -> None:
        """Write everything out, so that no arm pays for the one before it."""
        self._connection.execute("CHECKPOINT")


def _moment(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)
