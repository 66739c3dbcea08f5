"""What a corrected read takes back: exactly what the replaced one had added, absent channels included."""

from __future__ import annotations

import numpy as np
from databases import both_layouts, table_of
from test_writer import HOUR_US, NOW_US, batch

from meterwatch.batch import Batch, Column, Reads
from meterwatch.channels import CHANNEL_BIT
from storage.writer import Writer

pytestmark = both_layouts
NAMES = ("import_wh", "export_wh", "import_varh", "export_varh")
ABSENT = [set(NAMES[:n]) for n in range(5)] + [{NAMES[n]} for n in range(4)]
"""A meter for each, without these."""


def sent(seq: int, first: int, quality: int) -> Batch:
    """Meter n has first + 10 n + channel, where it has the channel; voltage they all have."""
    made, n = batch(seq, [0] * len(ABSENT)), len(ABSENT)
    channels: dict[str, Column] = {
        name: np.arange(first + at, first + at + 10 * n, 10, dtype=np.int32) for at, name in enumerate(NAMES)
    }
    channels["voltage_a_v"] = np.full(n, 230 + seq, np.float32)
    present = [sum(CHANNEL_BIT[name] for name in channels if name not in absent) for absent in ABSENT]
    words = np.full(n, quality, np.int32)
    reads = Reads(made.reads.slot, made.reads.end_us, 900, words, channels, np.array(present, np.uint32))
    return Batch(1, 7, seq, made.digest, reads, made.rejects, 0, n)


def test_what_is_taken_back_is_what_was_added(dsn: str) -> None:
    writer = Writer(dsn, {}, table=table_of(dsn))
    try:
        [added] = writer.write([sent(1, 100, 4)], NOW_US)
        [changed] = writer.write([sent(2, 1000, 8)], NOW_US + HOUR_US)
    finally:
        writer.close()
    assert added.change is not None
    assert changed.change is not None
    back = changed.change.sign < 0
    order = np.argsort(changed.change.slot[back])
    for name in ("slot", "end_us", "interval_s", "quality", "has_energy", "has_reactive"):
        assert getattr(changed.change, name)[back][order].tolist() == getattr(added.change, name).tolist(), name
    for at, name in enumerate(NAMES):
        expected = [0 if name in absent else 100 + 10 * n + at for n, absent in enumerate(ABSENT)]
        assert getattr(changed.change, name)[back][order].tolist() == expected, name
        assert getattr(added.change, name).tolist() == expected, name
    assert added.change.has_energy.tolist() == [not {"import_wh", "export_wh"} <= absent for absent in ABSENT]
    assert added.change.has_reactive.tolist() == [not {"import_varh", "export_varh"} <= absent for absent in ABSENT]
