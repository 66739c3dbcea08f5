"""NEM12 and NEM13 against real files of meter data providers, read a second time by a scalar oracle."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from meterwatch.files import FileError, FileReads, read_file
from meterwatch.files.columns import ACTUAL, ESTIMATED, SUBSTITUTED

GOLDEN = Path(__file__).parents[1] / "golden" / "nem12"
GOOD = sorted(GOLDEN.glob("*.csv"))
CHANNEL = {"E": "import_wh", "B": "export_wh", "Q": "import_varh", "K": "export_varh"}
FACTOR = {"": 1, "k": 1000, "m": 1_000_000}

INVALID = {
    "Example_NEM12_15min_200_30min_300.csv": (3, "48 values before quality 'V'; expected 96"),
    "Example_NEM12_15min_200_30min_400.csv": (3, "intervals 1 to 48 of 96"),
    "Example_NEM12_30min_200_15min_300.csv": (3, "96 values before quality 'V'; expected 48"),
    "Example_NEM12_30min_200_15min_400.csv": (3, "96 values before quality 'V'; expected 48"),
    "Example_NEM12_empty.csv": (2, "holds no reads"),
    "Example_NEM12_incomplete_interval.csv": (3, "0 values before quality 'V'; expected 48"),
    "Example_NEM12_missing_header.csv": (2, "a 200 record before the header"),
    "Example_NEM12_powercor.csv": (2, "a 200 record before the header"),
    "Example_NEM12_powercor.csv.zip": (2, "a 200 record before the header"),
    "Example_NEM12_powercor_missing_fields.csv": (2, "a 200 record before the header"),
    "Example_empty_file.csv": (1, "the file is empty"),
}


def scalar(path: Path) -> tuple[dict[tuple[str, str, datetime], Decimal], Counter[str]]:
    """Return (meter, channel, interval end) -> Wh, one value at a time, and how many other values there are."""
    out: dict[tuple[str, str, datetime], Decimal] = {}
    other: Counter[str] = Counter()
    market = timezone(timedelta(hours=10))
    register: list[str] = []
    for text in path.read_text().splitlines():
        cells = [cell.strip() for cell in text.split(",")]
        if cells[0] == "200":
            register = cells
        elif cells[0] == "300":
            nmi, suffix, unit, minutes = register[1], register[4], register[7].lower(), int(register[8])
            if suffix[0] not in CHANNEL:
                other[suffix] += 24 * 60 // minutes
                continue
            meter = nmi if suffix[1] == "1" else f"{nmi}-{suffix[1]}"
            factor = FACTOR[unit.replace("varh", "").replace("wh", "")]
            for i in range(24 * 60 // minutes):
                end = datetime.strptime(cells[1], "%Y%m%d").replace(tzinfo=market) + timedelta(
                    minutes=minutes * (i + 1)
                )
                out[meter, CHANNEL[suffix[0]], end] = Decimal(cells[2 + i]) * factor
        elif cells[0] == "250":
            meter = cells[1] if cells[4] == "11" else f"{cells[1]}-{cells[4]}"
            end = datetime.strptime(cells[14], "%Y%m%d%H%M%S").replace(tzinfo=market)
            out[meter, "import_wh", end] = Decimal(cells[18]) * 1000
    return out, other


def by_scalar_key(reads: FileReads) -> dict[tuple[str, str, datetime], int]:
    out = {}
    for name, values in reads.channels.items():
        for i in np.flatnonzero(reads.has(name)):
            end = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(reads.end_us[i]))
            out[reads.meter[reads.meter_index[i]], name, end] = int(values[i])
    return out


def nem12(tmp_path: Path, *records: str) -> Path:
    path = tmp_path / "made.csv"
    path.write_text("\n".join(["100,NEM12,202601010000,A,B", *records, "900", ""]))
    return path


def day(values: str = "1", quality: str = "A", date: str = "20260110", n: int = 48) -> str:
    return f"300,{date},{','.join([values] * n)},{quality},,,20260111000000,"


E1 = "200,NMI1,E1Q1,1,E1,N1,S1,kWh,30,"


def problems(path: Path) -> list[tuple[int, str]]:
    with pytest.raises(FileError) as caught:
        read_file(path)
    return [tuple(problem) for problem in caught.value.problems]


def test_all_twelve_golden_files_are_here() -> None:
    assert len(GOOD) == 12
    assert sorted(p.name for p in (GOLDEN / "invalid").iterdir()) == sorted(INVALID)


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_every_value_of_a_real_file_arrives_once_at_its_instant(path: Path) -> None:
    reads = read_file(path)
    expected, other = scalar(path)
    assert by_scalar_key(reads) == expected
    sums: Counter[tuple[str, str]] = Counter()
    for (meter, channel, _), wh in expected.items():
        sums[meter, channel] += int(wh)
    assert reads.sums() == sums
    assert sum(reads.skipped.values()) == other.total()
    assert reads.rounded_values == 0
    assert reads.rounding_wh == 0.0


@pytest.mark.parametrize("name", INVALID)
def test_a_broken_file_is_refused_with_its_line(name: str) -> None:
    line, message = INVALID[name]
    found = problems(GOLDEN / "invalid" / name)
    assert found[0][0] == line
    assert message in found[0][1]


def test_two_import_registers_of_an_nmi_are_two_meters() -> None:
    reads = read_file(GOLDEN / "Example_NEM12_different_interval_length.csv")
    assert reads.sums() == {("C123", "import_wh"): 254_000, ("C123-2", "import_wh"): 120_000}
    assert reads.skipped == {"register Vx (no unit): not interval energy": 144}


def test_registers_of_one_meter_share_a_row() -> None:
    reads = read_file(GOLDEN / "Example_NEM12_actual_interval.csv")
    assert reads.rows == 48
    assert sorted(reads.channels) == ["import_varh", "import_wh"]
    assert reads.present is None


def test_a_register_that_lacks_days_leaves_its_channel_absent() -> None:
    reads = read_file(GOLDEN / "Example_NEM12_partialchannel.csv")
    assert reads.present is not None
    assert int(reads.has("export_wh").sum()) == 288
    assert int(reads.has("import_wh").sum()) == 31 * 288


def test_400_records_set_the_quality_of_their_intervals() -> None:
    reads = read_file(GOLDEN / "Example_NEM12_multiple_quality.csv")
    assert reads.method.tolist() == [SUBSTITUTED] * 20 + [ACTUAL] * 4 + [ESTIMATED] * 24


def test_missing_readings_are_counted_and_give_no_row(tmp_path: Path) -> None:
    path = nem12(tmp_path, E1, day("1", "V"), "400,1,40,A,,", "400,41,48,N,,", day("", "N", "20260111"))
    reads = read_file(path)
    assert reads.rows == 40
    assert reads.skipped == {"missing reading (quality N)": 8 + 48}


def test_the_clock_of_the_file_is_a_parameter() -> None:
    path = GOLDEN / "Example_WesternPower.csv"
    east, west = read_file(path), read_file(path, utc_offset_s=8 * 3600)
    assert set((west.end_us - east.end_us).tolist()) == {2 * 3600 * 1_000_000}


def test_an_accumulated_read_is_one_long_row_and_said_to_be_so() -> None:
    reads = read_file(GOLDEN / "Example_NEM13_consumption_data.csv")
    assert reads.sums() == {("VABC005890", "import_wh"): 1_312_100}
    assert reads.interval_s.tolist() == [94 * 86_400 + 32 * 60 + 38]  # 5 October 09:30:55 to 7 January 10:03:33
    assert "not interval data" in reads.notes[0]
    storable = reads.storable()
    assert storable.rows == 0
    assert list(storable.skipped.values()) == [1]


def test_fractions_of_a_wh_round_half_to_even_and_are_accounted_for(tmp_path: Path) -> None:
    values = ",".join(["1.0005", "1.0015", "0.0004"] + ["2"] * 45)
    reads = read_file(nem12(tmp_path, E1, f"300,20260110,{values},A,,,,"))
    assert reads.channels["import_wh"][:3].tolist() == [1000, 1002, 0]
    assert reads.rounded_values == 3
    assert reads.rounding_wh == pytest.approx(0.5 - 0.5 + 0.4)


@pytest.mark.parametrize(
    ("records", "line", "message"),
    [
        ([E1, day("1,5")], 3, "96 values before quality 'A'; expected 48"),
        ([E1, day("nan")], 3, "0 values before quality 'nan'"),
        ([E1, day("1_0")], 3, "value '1_0' of interval 1"),
        ([E1, day("3000000")], 3, "at most 2147483647 Wh"),
        ([E1, day("")], 3, "value '' of interval 1"),
        ([E1, day(quality="X")], 3, "quality 'X'"),
        ([E1, day(date="20260230")], 3, "date '20260230' does not exist"),
        ([E1, day(date="infinity")], 3, "date 'infinity'"),
        ([E1, day(quality="V")], 3, "intervals 1 to 0 of 48"),
        ([E1, day(quality="V"), "400,2,48,A"], 4, "expected it to begin where the one before ended"),
        ([E1, day(quality="V"), "400,1,49,A"], 4, "within the 48 of the day on line 3"),
        ([E1, day(quality="V"), "400,1,48,V"], 4, "quality V in a 400 record"),
        ([E1, day(quality="V"), "400,one,48,A"], 4, "first interval, last interval and quality"),
        ([E1.replace("kWh", "kW"), day()], 2, "unit 'kW' for register E1"),
        ([E1.replace(",30,", ",7,"), day(n=205)], 2, "interval length '7'"),
        ([E1.replace(",E1,N1", ",,N1"), day()], 2, "NMI suffix ''"),
        ([E1.replace("NMI1", "=cmd()"), day()], 2, "NMI '=cmd()'"),
        (["200,NMI1,E1"], 2, "a 200 record of 3 fields"),
        ([E1, "300,20260110"], 3, "no quality after the values"),
        ([day()], 2, "a 300 record without a 200 record"),
        ([E1, "400,1,48,A"], 3, "a 400 record without a 300 record"),
        ([E1, day(), "250,x"], 4, "a 250 record in a NEM12 file"),
        ([E1, day(), "700,x"], 4, "record '700'"),
        ([E1, day(), "100,NEM12,1"], 4, "a second 100 record"),
        ([E1, day(), "900", E1], 5, "record 200 after the 900 end record"),
        ([E1, day(), day("2")], 4, "a value is 2000 Wh here and 1000 Wh on line 3"),
        ([E1, day(), E1.replace("E1,N1", "Q1,N1").replace("kWh,30", "kVArh,15"), day(n=96)], 5, "two interval lengths"),
    ],
)  # fmt: skip
def test_a_broken_record_is_refused_with_its_line(tmp_path: Path, records: list[str], line: int, message: str) -> None:
    found = problems(nem12(tmp_path, *records))
    assert any(at == line and message in said for at, said in found), found


def test_all_broken_records_of_a_file_are_reported_together(tmp_path: Path) -> None:
    path = nem12(
        tmp_path, E1, day("x1"), day("1", date="20260111"), day("1", date="20269999"), day("1", "Z", "20260112")
    )
    assert [line for line, _ in problems(path)] == [3, 5, 6]


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv"
    path.write_text(f"100,NEM12,1,A,B\n{E1}\n{day()}\n")
    assert problems(path) == [(3, "the file ends without a 900 record; it was cut off; fetch it again")]


def test_the_same_day_twice_with_the_same_values_is_counted(tmp_path: Path) -> None:
    reads = read_file(nem12(tmp_path, E1, day(), day()))
    assert reads.rows == 48
    assert reads.skipped == {"duplicate value": 48}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",E,006342.8", ",X,006342.8", "direction 'X'"),
        ("20031005093055", "20050101000000", "expected the current read to be the later one"),
        (",kWh,", ",gas,", "unit 'gas'"),
        ("1312.1", "1e", "quantity '1e'"),
        ("20040107100333", "20041307100333", "does not exist"),
    ],
)
def test_a_broken_accumulated_read_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (GOLDEN / "Example_NEM13_consumption_data.csv").read_text()
    assert old in text
    path = tmp_path / "nem13.csv"
    path.write_text(text.replace(old, new))
    found = problems(path)
    assert found[0][0] == 2
    assert message in found[0][1]
