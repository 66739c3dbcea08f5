"""Arrays and rows to batches on the wire.

Promises: what is not as the contract wants it is a ValueError that says what arrived and what to change, before
anything is sent; values are never changed silently (float energy is refused, not rounded). Refuses to judge values:
whether a read is plausible is decided once, in the service.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meterwatch.channels import CHANNEL_BIT, CHANNEL_NAMES, CHANNELS, INTERVALS_S
from meterwatch.v1.ingest_bytes_pb2 import IngestRequestBytes

NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_US_LEAST: Final = 10**14
"""1973 in microseconds; what is below was meant as seconds or milliseconds."""
_ORIGIN_MAX: Final = 4
PHASES_MAX: Final = 7
DAYS_MAX: Final = 60
"""Days in one batch; the service takes 64 (TOO_SPREAD) and may cut days elsewhere."""
DAY_US: Final = 86_400_000_000


class Row(NamedTuple):
    """One read with its values by name; None: absent."""

    meter: str
    end_us: int
    interval_s: int = 900
    import_wh: int | None = None
    export_wh: int | None = None
    import_varh: int | None = None
    export_varh: int | None = None
    voltage_a_v: float | None = None
    voltage_b_v: float | None = None
    voltage_c_v: float | None = None
    current_a_a: float | None = None
    current_b_a: float | None = None
    current_c_a: float | None = None
    power_factor: float | None = None
    device_status: int | None = None
    origin: int = 0


@dataclass(frozen=True, slots=True)
class Columns:
    """Checked columns of length n; meter_index points into `meter`. dtypes are those of the wire."""

    meter: list[str]
    meter_index: NDArray[np.uint32]
    end_us: NDArray[np.int64]
    interval_s: NDArray[np.int32]
    channels: dict[str, NDArray[Any]]
    mask: NDArray[np.uint32] | None
    origin: NDArray[np.uint32] | None
    starts: bool = False
    """end_us holds interval starts."""
    secondary: bool = False
    """Energies are as metered behind instrument transformers."""

    @property
    def rows(self) -> int:
        return len(self.end_us)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on the wire."""
        return 12 + 4 * len(self.channels) + 4 * (self.mask is not None) + 4 * (self.origin is not None)

    def parts(self, rows_max: int) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
        """Split into (interval_s, rows): at most rows_max rows of one interval length and of DAYS_MAX days each.

        Rows stay in their order, except that those of too many days are put in the order of days.
        """
        lengths = np.unique(self.interval_s)
        for length in lengths.tolist():
            one = len(lengths) == 1
            stamps = self.end_us if one else self.end_us[self.interval_s == length]
            if not len(stamps):
                continue
            if int(stamps.max()) // DAY_US - int(stamps.min()) // DAY_US < DAYS_MAX:
                if one:
                    yield from ((length, slice(at, at + rows_max)) for at in range(0, self.rows, rows_max))
                    continue
                runs = [np.flatnonzero(self.interval_s == length)]
            else:
                runs = _by_days(self.end_us, np.flatnonzero(self.interval_s == length))
            for run in runs:
                yield from ((length, run[at : at + rows_max]) for at in range(0, len(run), rows_max))

    def encode(
        self, seq: int, interval_s: int, rows: NDArray[np.intp] | slice, index_of: NDArray[np.uint32]
    ) -> tuple[bytes, int]:
        """Return (IngestRequest with the chosen rows as bytes, rows). index_of: stream index per entry of `meter`."""
        request = IngestRequestBytes()
        batch = request.batch
        batch.seq, batch.interval_s = seq, interval_s
        batch.stamp_meaning, batch.value_meaning = int(self.starts), int(self.secondary)
        stamps = self.end_us[rows]
        batch.meter_index = index_of[self.meter_index[rows]].astype("<u4", copy=False).tobytes()
        batch.stamp_us = stamps.tobytes()
        if self.mask is not None:
            batch.channel_mask = self.mask[rows].tobytes()
        if self.origin is not None:
            batch.origin = self.origin[rows].tobytes()
        for name, values in self.channels.items():
            setattr(batch, name, values[rows].tobytes())
        return request.SerializeToString(), len(stamps)


def _by_days(end_us: NDArray[np.int64], rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    days, rank = np.unique(end_us[rows] // DAY_US, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    return np.split(rows[order], np.searchsorted(rank[order], np.arange(DAYS_MAX, len(days), DAYS_MAX)))


def checked_columns(
    meter: Sequence[str],
    meter_index: ArrayLike,
    end_us: ArrayLike,
    interval_s: ArrayLike,
    channels: Mapping[str, ArrayLike | None],
    mask: ArrayLike | None,
    origin: ArrayLike | None,
) -> Columns:
    """Check what a caller gave and bring it into the types of the wire; ValueError says what to change."""
    names = list(meter)
    check_names(names)
    stamps = _stamps("end_us", end_us)
    rows = len(stamps)
    index = _whole("meter_index", meter_index, "<u4", rows, 0, len(names) - 1)
    length = np.asarray(interval_s)
    if length.ndim == 0:
        length = np.full(rows, length)
    lengths = _whole("interval_s", length, "<i4", rows, 1, 86_400)
    unknown = sorted(set(np.unique(lengths).tolist()) - set(INTERVALS_S))
    if unknown:
        raise ValueError(f"interval_s is {unknown[0]}; expected one of {', '.join(map(str, INTERVALS_S))} seconds")
    given = {name: values for name, values in channels.items() if values is not None}
    if not given:
        raise ValueError(f"no channel was given; give at least one of {', '.join(CHANNEL_NAMES)}")
    columns = {name: _channel(name, values, rows) for name, values in given.items()}
    sent = sum(CHANNEL_BIT[name] for name in columns)
    bits = None if mask is None else _whole("mask", mask, "<u4", rows, 0, (1 << len(CHANNELS)) - 1)
    if bits is not None and bits.size and (extra := int(np.bitwise_or.reduce(bits)) & ~sent):
        lacking = [name for name, bit in CHANNEL_BIT.items() if bit & extra]
        raise ValueError(f"mask marks {', '.join(lacking)} as present, which was not given; clear the bits or give it")
    codes = None if origin is None else _whole("origin", origin, "<u4", rows, 0, _ORIGIN_MAX)
    return Columns(names, index, stamps, lengths, columns, bits, codes)


def check_names(names: Sequence[str]) -> None:
    """Refuse meter numbers the contract does not allow."""
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"meter {name!r}; expected 1 to 64 of A-Z a-z 0-9 _ . : -; change the meter number")


def row_columns(rows: Iterable[tuple[Any, ...] | Mapping[str, Any]], rows_max: int) -> Iterator[Columns]:
    """Rows to columns, rows_max at a time; a channel absent in some rows goes into the mask."""
    iterator = iter(rows)
    number = 0
    while chunk := list(islice(iterator, rows_max)):
        yield _chunk([_row(row, number + i) for i, row in enumerate(chunk)], number)
        number += len(chunk)


def _chunk(rows: list[Row], first: int) -> Columns:
    by_name = dict(zip(Row._fields, zip(*rows, strict=True), strict=True))
    at: dict[str, int] = {}
    index = [at.setdefault(name, len(at)) for name in by_name["meter"]]
    mask = np.zeros(len(rows), np.uint32)
    channels: dict[str, ArrayLike | None] = {}
    for name, bit in CHANNEL_BIT.items():
        here = np.array([value is not None for value in by_name[name]], np.bool_)
        if here.any():
            mask[here] |= np.uint32(bit)
            channels[name] = np.array([0 if value is None else value for value in by_name[name]])
    if not mask.all():
        row = first + int(np.flatnonzero(mask == 0)[0])
        raise ValueError(f"row {row} carries no channel; give at least one of {', '.join(CHANNEL_NAMES)}")
    partial = None if (mask == mask[0]).all() else mask
    origin = by_name["origin"] if any(by_name["origin"]) else None
    return checked_columns(list(at), index, by_name["end_us"], by_name["interval_s"], channels, partial, origin)


def _row(row: tuple[Any, ...] | Mapping[str, Any], number: int) -> Row:
    if isinstance(row, tuple):
        return Row(*row)
    for key in row:
        if key not in Row._fields:
            raise ValueError(f"row {number} has the key {key!r}{_near(key, Row._fields)}")
    for key in ("meter", "end_us"):
        if key not in row:
            raise ValueError(f"row {number} has no {key!r}; every row needs meter and end_us")
    return Row(**row)


def _near(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(known)}"


def _one_dimension(name: str, values: ArrayLike, rows: int | None) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions; expected a flat array with one value per row")
    if rows is not None and len(array) != rows:
        raise ValueError(f"{name} has {len(array)} values, end_us has {rows}; give one value per row")
    return array


def _whole(name: str, values: ArrayLike, dtype: str, rows: int | None, least: int, most: int) -> NDArray[Any]:
    array = _one_dimension(name, values, rows)
    if array.size == 0:
        return np.zeros(0, dtype)
    if array.dtype.kind not in "iu":
        nan = array.dtype.kind == "f" and bool(np.isnan(array).any())
        change = "set those rows to 0 and clear their bit in mask, then" if nan else "round and"
        what = f"{array.dtype}{' with NaN' if nan else ''}"
        raise ValueError(f"{name} is {what}; expected integers; {change} convert with astype(np.int64)")
    low, high = int(array.min()), int(array.max())
    if low < least or high > most:
        raise ValueError(f"{name} goes from {low} to {high}; expected {least} to {most}")
    return np.ascontiguousarray(array, np.dtype(dtype))


def _stamps(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = _one_dimension(name, values, None)
    if array.dtype.kind == "M":
        if np.isnat(array).any():
            raise ValueError(f"{name} holds NaT; leave those rows out")
        array = array.astype("datetime64[us]").astype(np.int64)
    stamps: NDArray[np.int64] = _whole(name, array, "<i8", None, -(1 << 63), (1 << 63) - 1)
    if stamps.size and 0 < int(stamps.max()) < _US_LEAST:
        raise ValueError(
            f"{name} ends at {int(stamps.max())}; expected microseconds since 1970 (16 digits); multiply seconds by "
            "1_000_000, milliseconds by 1_000"
        )
    return stamps


def _channel(name: str, values: ArrayLike, rows: int) -> NDArray[Any]:
    if name not in CHANNEL_BIT:
        raise ValueError(f"channel {name!r} is not known{_near(name, CHANNEL_NAMES)}")
    dtype = CHANNELS[CHANNEL_NAMES.index(name)].dtype
    if dtype.kind in "iu":
        bits = 8 * dtype.itemsize
        least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.kind == "i" else (0, (1 << bits) - 1)
        return _whole(name, values, dtype.str, rows, least, most)
    array = _one_dimension(name, values, rows)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {array.dtype}; expected numbers; convert with astype(np.float32)")
    with np.errstate(over="ignore"):  # becomes infinite; the service puts such a row into quarantine
        return np.ascontiguousarray(array, dtype)


def checked_events(
    meters: Sequence[str], at_us: ArrayLike, codes: ArrayLike, code_max: int, phases: ArrayLike = 0
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Check events, one meter number, time, code and phases (bits) each; ValueError says what to change."""
    stamps = _named_stamps(meters, at_us, "event")
    kinds = _codes("codes", codes, len(stamps), code_max, "event")
    return stamps, kinds, _codes("phases", phases, len(stamps), PHASES_MAX, "event", least=0)


def checked_registers(
    meters: Sequence[str], at_us: ArrayLike, value_wh: ArrayLike, registers: ArrayLike, register_max: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Check register reads, one meter number, time, value and register each; ValueError says what to change."""
    stamps = _named_stamps(meters, at_us, "register read")
    values: NDArray[np.int64] = _whole("value_wh", value_wh, "<i8", len(stamps), -(1 << 63), (1 << 63) - 1)
    return stamps, values, _codes("registers", registers, len(stamps), register_max, "register read")


def _named_stamps(meters: Sequence[str], at_us: ArrayLike, what: str) -> NDArray[np.int64]:
    check_names(meters)
    stamps = _stamps("at_us", at_us)
    if len(meters) != len(stamps):
        raise ValueError(f"meters has {len(meters)} values, at_us has {len(stamps)}; give one value per {what}")
    return stamps


def _codes(name: str, codes: ArrayLike, rows: int, most: int, what: str, least: int = 1) -> NDArray[np.int32]:
    array = np.asarray(codes)
    if array.ndim == 0:
        array = np.full(rows, array)
    if len(array) != rows:
        raise ValueError(f"{name} has {len(array)} values, at_us has {rows}; give one value per {what}")
    checked: NDArray[np.int32] = _whole(name, array, "<i4", rows, least, most)
    return checked
