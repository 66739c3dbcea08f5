"""CSV files: what is written comes back, every refusal has its line, nothing is loaded in part."""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.channels import CHANNEL_NAMES, INTERVALS_S
from meterwatch.files import FileError, FileReads, lines, read_file
from meterwatch.files.columns import PROBLEMS_MAX
from meterwatch.files.csvfile import read_csv
from meterwatch.files.decimals import WH_MAX, energy

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HEADER = "meter,end,interval_s,import_wh"
ROW = "700000000001,2026-01-31T13:15:00+01:00,900,125"
END_US = int(datetime(2026, 1, 31, 12, 15, tzinfo=UTC).timestamp()) * 1_000_000


def read(*rows: str, header: str = HEADER, time_zone: str | None = None, interval_s: int | None = None) -> FileReads:
    data = "\n".join([header, *rows, ""]).encode()
    return read_csv("made.csv", lines.blocks(io.BytesIO(data), "made.csv"), time_zone=time_zone, interval_s=interval_s)


def refusals(*rows: str, header: str = HEADER, time_zone: str | None = None) -> list[tuple[int, str]]:
    with pytest.raises(FileError) as caught:
        read(*rows, header=header, time_zone=time_zone)
    return [tuple(problem) for problem in caught.value.problems]


def refused_file(tmp_path: Path, data: bytes, name: str = "made.csv") -> list[tuple[int, str]]:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        read_file(path)
    assert caught.value.file.startswith(name)
    return [tuple(problem) for problem in caught.value.problems]


# what is written comes back ----------

whole = st.integers(-WH_MAX, WH_MAX)
single = st.floats(width=32, allow_nan=False, allow_infinity=False)
offset = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instant = st.builds(
    lambda us, zone: (EPOCH + timedelta(microseconds=us)).astimezone(zone),
    st.integers(0, 4_102_444_800_000_000),
    offset,
)
row = st.fixed_dictionaries(
    {
        "meter": st.from_regex(r"[A-Za-z0-9._:-]{1,12}", fullmatch=True),
        "end": instant,
        "interval_s": st.sampled_from(INTERVALS_S),
        "import_wh": st.none() | whole,
        "export_varh": st.none() | whole,
        "voltage_b_v": st.none() | single,
        "device_status": st.none() | st.integers(0, 2**32 - 1),
    }
)


@given(
    rows=st.lists(row, min_size=1, max_size=30),
    order=st.permutations(["meter", "end", "interval_s", "import_wh", "export_varh", "voltage_b_v", "device_status"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
    block=st.integers(40, 400),
)
def test_what_is_written_comes_back(
    rows: list[dict[str, object]], order: list[str], newline: str, quoting: int, bom: bool, block: int
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=newline, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(order)
    for cells in rows:
        writer.writerow([c.isoformat() if isinstance(c := cells[name], datetime) else c for name in order])
    data = text.getvalue().encode("utf-8-sig" if bom else "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block)
        reads = read_csv("made.csv", lines.blocks(io.BytesIO(data), "made.csv"))

    full = [cells for cells in rows if any(cells[name] is not None for name in CHANNEL_NAMES if name in order)]
    assert reads.skipped.get("row without a reading", 0) == len(rows) - len(full)
    assert [reads.meter[i] for i in reads.meter_index] == [cells["meter"] for cells in full]
    assert [EPOCH + timedelta(microseconds=int(us)) for us in reads.end_us] == [cells["end"] for cells in full]
    assert reads.interval_s.tolist() == [cells["interval_s"] for cells in full]
    for name in ("import_wh", "export_varh", "voltage_b_v", "device_status"):
        there = [cells[name] is not None for cells in full]
        assert reads.has(name).tolist() == there
        if any(there):
            assert reads.channels[name][there].tolist() == [cells[name] for cells in full if cells[name] is not None]
            assert not reads.channels[name][~np.array(there)].any()


@given(
    st.lists(st.decimals(-2000, 2000, places=5, allow_nan=False), min_size=1, max_size=40)
    | st.lists(st.integers(-4_000_000, 4_000_000).map(lambda n: Decimal(n) / 2000), min_size=1, max_size=40)
)
def test_kilowatt_hours_round_half_to_even_on_their_decimal_value(values: list[Decimal]) -> None:
    got = energy([f"{value:f}" for value in values], 1000)
    exact = [value * 1000 for value in values]
    rounded = [int(value.quantize(Decimal(1), ROUND_HALF_EVEN)) for value in exact]
    assert got.wh.tolist() == rounded
    assert got.rounded == sum(value != wh for value, wh in zip(exact, rounded, strict=True))
    assert got.difference_wh == pytest.approx(float(sum(exact) - sum(rounded)))


def test_columns_have_their_dtypes() -> None:
    reads = read("1,2026-01-01T00:00Z,900,5,230.5,7", header=f"{HEADER},voltage_a_v,device_status")
    assert (reads.meter_index.dtype, reads.end_us.dtype, reads.interval_s.dtype) == (np.uint32, np.int64, np.int32)
    assert [values.dtype for values in reads.channels.values()] == [np.int64, np.float32, np.uint32]
    assert reads.method.dtype == np.uint8


def test_a_start_column_becomes_the_interval_end() -> None:
    reads = read("1,2026-01-31T13:00:00+01:00,5", header="meter,start,import_wh", interval_s=900)
    assert reads.end_us.tolist() == [END_US]


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T12:15Z", "2026-01-31 12:15:00Z", "2026-01-31T12:15:00.000000+00:00", "2026-01-31T17:45:00+0530"],
)
def test_spellings_of_one_instant(text: str) -> None:
    assert read(f"1,{text},900,5").end_us.tolist() == [END_US]


def test_a_leap_second_is_the_last_second() -> None:
    reads = read("1,2016-12-31T23:59:60Z,900,5", "1,2017-01-01T00:59:60+01:00,900,5")
    assert set(reads.end_us.tolist()) == {int(datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()) * 1_000_000}


def test_an_interval_cell_may_be_empty_when_the_file_has_one_interval() -> None:
    assert read("1,2026-01-01T00:00Z,,5", "1,2026-01-01T01:00Z,3600,5", interval_s=900).interval_s.tolist() == [
        900,
        3600,
    ]


def test_minus_zero_is_zero() -> None:
    reads = read("1,2026-01-01T00:00Z,900,-0.0", header="meter,end,interval_s,power_factor")
    assert not np.signbit(reads.channels["power_factor"]).any()


# local time ----------


def test_a_local_time_needs_a_zone() -> None:
    assert refusals("1,2026-01-31T13:15:00,900,5")[0] == (
        2,
        "end: time '2026-01-31 13:15:00' has no offset; expected one (Z, +01:00), or give the file's time zone",
    )
    assert read("1,2026-01-31T13:15:00,900,5", time_zone="Europe/Berlin").end_us.tolist() == [END_US]


def test_a_time_in_the_spring_gap_is_refused() -> None:
    (line, message), *_ = refusals("1,2026-03-08T02:30,900,5", time_zone="America/New_York")
    assert line == 2
    assert "02:30 does not exist on 2026-03-08 in America/New_York" in message


def test_the_repeated_hour_needs_fold() -> None:
    (_, message), *_ = refusals("1,2026-10-25T02:30,900,5", time_zone="Europe/Berlin")
    assert "02:30 occurs twice on 2026-10-25 in Europe/Berlin" in message
    header = "fold," + HEADER
    reads = read("0,1,2026-10-25T02:30,900,5", "1,1,2026-10-25T02:30,900,5", header=header, time_zone="Europe/Berlin")
    assert np.diff(reads.end_us).tolist() == [3600 * 1_000_000]
    assert "fold '2'" in refusals("2,1,2026-10-25T02:30,900,5", header=header, time_zone="Europe/Berlin")[0][1]


def test_an_offset_in_the_file_wins_over_the_zone() -> None:
    assert read("1,2026-10-25T02:30+01:00,900,5", time_zone="Europe/Berlin").rows == 1


def test_unknown_zone_and_interval_are_refused() -> None:
    for zone in ("Mars/Base", "../etc/passwd", ""):
        assert "is unknown" in refusals(ROW, time_zone=zone)[0][1]
    with pytest.raises(FileError, match="interval of 420 s"):
        read(ROW, interval_s=420)


# refusals ----------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1,infinity,900,5", "time 'infinity'; expected ISO 8601"),
        ("1,4714-11-24 BC,900,5", "time '4714-11-24 BC'"),
        ("1,2026-02-30,900,5", "time '2026-02-30' does not exist"),
        ("1,2026-02-30T00:00Z,900,5", "does not exist"),
        ("1,2026-02-28,900,5", "has no time of day"),
        ("1,2026-01-01T24:00Z,900,5", "does not exist"),
        ("1,2026-01-01T12:30:60Z,900,5", "does not exist"),
        ("1,1767225600,900,5", "time '1767225600'; expected ISO 8601"),
        ("1,,900,5", "time ''"),
        ("1,2026-01-01T00:00Z,900,5,6", "5 cells; expected 4"),
        ("1,2026-01-01T00:00Z,900", "3 cells; expected 4"),
        ("1;2026-01-01T00:00Z;900;5", "1 cells; expected 4 as in the header; export with commas"),
        ('1,2026-01-01T00:00Z,900,"1,5"', "import_wh '1,5'; expected a whole number"),
        ("1,2026-01-01T00:00Z,900,1.5", "for fractions use import_kwh"),
        ("1,2026-01-01T00:00Z,900,1_000", "import_wh '1_000'"),
        ("1,2026-01-01T00:00Z,900,\u0663", "import_wh '\u0663'"),
        ("1,2026-01-01T00:00Z,900,2147483648", "expected a whole number from -2147483647 to 2147483647"),
        ("1,2026-01-01T00:00Z,900,99999999999999999999", "import_wh '99999999999999999999'"),
        ("1,2026-01-01T00:00Z,900,--5", "import_wh '--5'"),
        ("1,2026-01-01T00:00Z,420,5", "interval_s 420; expected one of"),
        ("1,2026-01-01T00:00Z,,5", "interval_s ''"),
        ("=cmd(),2026-01-01T00:00Z,900,5", "meter '=cmd()'"),
        (",2026-01-01T00:00Z,900,5", "meter ''"),
        ("A/1,2026-01-01T00:00Z,900,5", "meter 'A/1'"),
        ('1,2026-01-01T00:00Z,900,"5', "quotes or line ends are broken"),
        ('1,2026-01-01T00:00Z,900,"5"6', "quotes or line ends are broken"),
        ("1,2026-01-01T00:00Z,900,5\r1,2026-01-01T00:15Z,900,5", "quotes or line ends are broken"),
    ],
)
def test_a_broken_row_is_refused_with_its_line(bad: str, message: str) -> None:
    found = refusals(ROW, "", bad, ROW)
    assert found[0][0] == 4, found
    assert message in found[0][1]


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999", "230,5", "0x10", "1_0"])
def test_a_float_channel_takes_finite_decimals_only(value: str) -> None:
    found = refusals(f'1,2026-01-01T00:00Z,900,"{value}"', header="meter,end,interval_s,voltage_a_v")
    assert found[0][0] == 2
    assert f"voltage_a_v {value!r}" in found[0][1]


def test_a_kilowatt_hour_cell_beyond_the_column_is_refused() -> None:
    found = refusals("1,2026-01-01T00:00Z,900,2147483.648", header="meter,end,interval_s,import_kwh")
    assert "at most 2147483647 Wh" in found[0][1]


def test_a_cell_that_spans_lines_is_refused() -> None:
    assert refusals(ROW, '"1', '2",2026-01-01T00:00Z,900,5')[0] == (
        3,
        "a quoted cell goes on to the next line; expected one row per line",
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("meter;end;interval_s;import_wh", "separated by semicolons"),
        ("meter\tend\tinterval_s\timport_wh", "separated by tabs"),
        ("meter,end,interval_s,kwh", "column 'kwh' is unknown"),
        ("meter,end,interval_s,import_wh,import_wh", "occurs twice"),
        ("end,interval_s,import_wh", "no column `meter`"),
        ("meter,interval_s,import_wh", "neither `end` and `start`"),
        ("meter,end,start,interval_s,import_wh", "both `end` and `start`"),
        ("meter,end,import_wh", "no column `interval_s`"),
        ("meter,end,interval_s", "no channel column"),
        ("meter,end,interval_s,import_wh,import_kwh", "both `import_kwh` and `import_wh`"),
    ],
)
def test_a_broken_header_is_refused(header: str, message: str) -> None:
    found = refusals(ROW, header=header)
    assert found[0][0] == 1
    assert any(message in said for _, said in found)


def test_a_file_without_rows_is_refused() -> None:
    assert refusals() == [(0, "no row after the header; expected reads")]


def test_all_problems_of_a_file_are_reported_together_and_in_order() -> None:
    bad = ("1,infinity,900,x", ROW, "1,2026-01-01T00:00Z,900", "=1,2026-01-01T00:00Z,900,5")
    assert [line for line, _ in refusals(*bad)] == [2, 2, 4, 5]


def test_at_most_fifty_problems_are_listed() -> None:
    found = refusals(*["1,infinity,900,5"] * 300)
    assert [line for line, _ in found] == [*range(2, 2 + PROBLEMS_MAX), 0]
    assert "more than 50 problems" in found[-1][1]


def test_the_error_text_names_file_and_line() -> None:
    with pytest.raises(FileError, match=r"^made\.csv, line 2: end: time 'x'") as caught:
        read("1,x,900,5")
    assert (caught.value.file, caught.value.line, caught.value.reason) == ("made.csv", 2, "FILE")


# bytes ----------


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (f"{HEADER}\n{ROW}\n1\0,x\n".encode(), 3, "NUL"),
        (f"{HEADER}\n{ROW}\nZ\u00e4hler,x\n".encode("latin-1"), 3, "byte 0xe4 is not UTF-8"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), 1, "UTF-16"),
        (f"{HEADER}\n{ROW}\n{'9' * 70_000},x\n".encode(), 3, "characters or more"),
        (b"x" * (20 << 20), 1, "characters or more"),
        (b"", 1, "the file is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", 1, "the file is empty"),
        (b"PAR1....", 0, "a Parquet file"),
        (b"\x1f\x8b\x08\x00", 0, "gzip"),
    ],
)  # fmt: skip
def test_bytes_that_are_not_text_are_refused(tmp_path: Path, data: bytes, line: int, message: str) -> None:
    found = refused_file(tmp_path, data)
    assert any(at == line and message in said for at, said in found), found


def test_problems_before_broken_bytes_are_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 32)
    monkeypatch.setattr("meterwatch.files.LINE_MAX", 32)
    found = refused_file(tmp_path, f"{HEADER}\n1,x,900,5\n{ROW}\n{ROW}\n\xe4\n".encode("latin-1"))
    assert [line for line, _ in found] == [2, 5]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        read_file(tmp_path / "none.csv")
    with pytest.raises(FileError, match="cannot be read"):
        read_file(tmp_path)


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, f"{HEADER}\n{ROW}\n")
    return path


def test_a_zip_with_one_file_is_read(tmp_path: Path) -> None:
    reads = read_file(zipped(tmp_path / "a.zip", "reads.csv"))
    assert reads.source == "a.zip/reads.csv"
    assert reads.sums() == {("700000000001", "import_wh"): 125}


def test_a_zip_with_several_files_or_none_is_refused(tmp_path: Path) -> None:
    two = zipped(tmp_path / "two.zip", "a.csv", "b.csv")
    with pytest.raises(FileError, match="the zip holds 2 files"):
        read_file(two)
    assert "the zip holds 0 files" in refused_file(tmp_path, _empty_zip(), "none.zip")[0][1]


def _empty_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.mkdir("only-a-directory")
    return data.getvalue()


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", "reads.csv").read_bytes())
    assert refused_file(tmp_path, bytes(data[:60]), "a.zip")[0][0] == 0
    data[45] ^= 0xFF
    assert "cannot be unpacked" in refused_file(tmp_path, bytes(data), "a.zip")[0][1]


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterwatch.files.UNZIPPED_BYTES_MAX", 10)
    with pytest.raises(FileError, match="bytes unpacked; expected at most 10"):
        read_file(zipped(tmp_path / "a.zip", "reads.csv"))
