"""Registry files: every error of every file in one list, each in its place."""

from datetime import date

import pytest

from meterwatch.data import GRID
from meterwatch.registry_csv import KINDS, PROBLEMS_MAX, Feeder, Meter, RegistryCsv, parse

FEEDERS = "feeder,substation,district,ampacity_a\n"
METERS = ",".join(KINDS["meters"].columns) + "\n"


def problems(kind: str, content: bytes | str) -> list[tuple[int, str]]:
    raw = content if isinstance(content, bytes) else content.encode()
    return [(line, message) for _, line, message in parse([RegistryCsv(kind, "f.csv", raw)]).problems]


def test_the_demo_grid_has_no_problem() -> None:
    files = [(kind, GRID / f"{kind}.csv") for kind in KINDS]
    parsed = parse(RegistryCsv(kind, kind, file.read_bytes()) for kind, file in files if file.exists())
    assert parsed.problems == []
    assert [len(rows) for rows in parsed.rows.values()] == [1, 4, 35, 19, 1203, 0, 0, 0, 0, 0]


def test_empty_optional_values_take_their_defaults() -> None:
    parsed = parse([RegistryCsv("meters", "m", f"{METERS}M1{',' * 12}\n".encode())])
    assert parsed.rows["meters"] == [
        Meter("M1", None, "?", 230.0, 100.0, None, 1.0, 900, date(2000, 1, 1), "", "", None, None)
    ]


def test_a_byte_order_mark_crlf_blank_lines_and_any_column_order_are_fine() -> None:
    content = b'\xef\xbb\xbfdistrict,feeder,ampacity_a,substation\r\n\r\nWEST,F1,220,"a, b"\r\n'
    parsed = parse([RegistryCsv("feeders", "f", content)])
    assert parsed.problems == []
    assert parsed.rows["feeders"] == [Feeder("F1", "a, b", "WEST", 220.0)]
    assert parsed.where["feeders"] == [("f", 3)]


@pytest.mark.parametrize(
    ("kind", "content", "line", "part"),
    [
        ("feeders", "", 1, "an empty file"),
        ("feeders", FEEDERS.encode() + b"F1,\0,,\n", 2, "a NUL byte"),
        ("feeders", FEEDERS.encode() + b"F1,\xfc,,\n", 2, "byte 0xfc"),
        ("feeders", FEEDERS.replace(",", ";"), 1, "semicolons"),
        ("feeders", FEEDERS + "F1,a;b,,\n", 2, "without semicolons"),
        ("feeders", "feeder,substation,district\n", 1, "column ampacity_a is missing"),
        ("feeders", "x," + FEEDERS, 1, "column 'x' is not known"),
        ("feeders", "feeder," + FEEDERS, 1, "column feeder occurs 2 times"),
        ("feeders", FEEDERS + "F1,,\n", 2, "3 values arrived; 4 were expected"),
        ("feeders", FEEDERS + "F1,,,,\n", 2, "5 values arrived; 4 were expected"),
        ("feeders", FEEDERS + "F1,,,\nF1,,,\n", 3, "arrived again, first in f.csv line 2"),
        ("feeders", FEEDERS + "F1,,,0\n", 2, "a number above 0"),
        ("feeders", FEEDERS + "F1,,,nan\n", 2, "a number above 0"),
        ("feeders", FEEDERS + 'F1,,,"1,5"\n', 2, "a number above 0"),
        ("feeders", FEEDERS + "F 1,,,\n", 2, "1 to 64 characters"),
        ("feeders", FEEDERS + "F" * 65 + ",,,\n", 2, "1 to 64 characters"),
        ("feeders", FEEDERS + ",x,,\n", 2, "feeder '' arrived; a value was expected"),
        ("feeders", FEEDERS + '"F1,,,\n', 2, "quotes"),
        ("feeders", FEEDERS + '"F1,a",,,\n"x\ny",,,\nF3,,,z\n', 5, "a number above 0"),
        ("transformers", "transformer,feeder,rated_kva,winding,district\nT1,F1,0,,\n", 2, "rated_kva '0' arrived"),
        ("head_ends", "head_end,time_zone,late_window_days\nH,Mars/Base,1\n", 2, "a time zone"),
        ("head_ends", "head_end,time_zone,late_window_days\nH,UTC,0\n", 2, "from 1 to 36500"),
        ("meters", f"{METERS}M1,T1,BA{',' * 10}\n", 2, "phases 'BA' arrived; one of A B C AB"),
        ("meters", f"{METERS}M1,,,,,,,901{',' * 5}\n", 2, "interval_s '901' arrived"),
        ("meters", f"{METERS}M1,,,,,,,,2021-02-29{',' * 4}\n", 2, "a date as YYYY-MM-DD"),
        ("meters", f"{METERS}M1,,,,,,,,20210201{',' * 4}\n", 2, "a date as YYYY-MM-DD"),
        ("wires", "", 1, "kind 'wires' arrived"),
    ],
)
def test_each_error_names_its_line_what_arrived_and_what_was_expected(
    kind: str, content: bytes | str, line: int, part: str
) -> None:
    found = problems(kind, content)
    assert any(at == line and part in message for at, message in found), found
    assert all(message.count("; ") >= 2 for _, message in found)


def test_all_errors_of_a_row_and_of_all_files_are_reported() -> None:
    parsed = parse(
        [
            RegistryCsv("feeders", "a", f"{FEEDERS}F!,,,x\nF2,,,\n".encode()),
            RegistryCsv("feeders", "b", f"{FEEDERS}F2,,,\nF3,,,\n".encode()),
        ]
    )
    assert [(p.file, p.line) for p in parsed.problems] == [("a", 2), ("a", 2), ("b", 2)]
    assert [row.feeder for row in parsed.rows["feeders"]] == ["F2", "F3"]


def test_at_most_200_problems_are_kept() -> None:
    assert len(problems("feeders", FEEDERS + "F1,,,x\n" * 500)) == PROBLEMS_MAX


@pytest.mark.parametrize(
    ("cell", "stored"),
    [
        ("2026-03-05", "2026-03-05T00:00:00+00:00"),
        ("2026-03-05T10:30:00+01:00", "2026-03-05T09:30:00+00:00"),
        ("2026-03-05 10:30Z", "2026-03-05T10:30:00+00:00"),
        ("2026-03-05T10:30:00", None),
        ("noon", None),
        ("1899-12-31", None),
    ],
)
def test_a_time_of_service_needs_its_zone(cell: str, stored: str | None) -> None:
    parsed = parse([RegistryCsv("service_times", "s.csv", f"meter,installed_at,retired_at\nM,,{cell}\n".encode())])
    assert [row.retired_at for row in parsed.rows["service_times"]] == ([stored] if stored else [])  # type: ignore[union-attr]
    assert len(parsed.problems) == (stored is None)
