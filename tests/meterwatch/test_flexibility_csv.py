"""What customers can spare, as a file: every error at once, nothing half taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterwatch.clock import US
from meterwatch.flexibility_csv import COLUMNS, PROBLEMS_MAX, Flexibility, parsed

HEAD = ",".join(COLUMNS)


def test_cells_become_values_and_empty_ones_their_defaults() -> None:
    text = f"\ufeff{HEAD}\r\n1,yes,1.5,0.5,3,1970-01-02T00:00Z\r\n2,,,,,\r\n"
    assert parsed("f.csv", text.encode()) == (
        [Flexibility("1", True, 1.5, 0.5, 3.0, 86_400 * US), Flexibility("2", False, 0.0, 0.0, None, None)],
        [],
    )


def test_columns_may_stand_in_any_order() -> None:
    text = "limited_at,meter,limit_to_kw,avoid_kw,shift_kw,protected\n,1,3,2,1,no\n"
    assert parsed("f.csv", text.encode())[0] == [Flexibility("1", False, 1.0, 2.0, 3.0, None)]


def test_all_errors_are_told_with_file_and_line() -> None:
    text = f"{HEAD}\n,maybe,-1,x,nan,soon\n1,,,\n2,,,,,\n2,,,,,\n"
    rows, problems = parsed("f.csv", text.encode())
    assert rows == []
    assert [one.split(": ")[0] for one in problems] == ["f.csv:2"] * 6 + ["f.csv:3", "f.csv:5"]
    for word in ("meter", "protected", "shift_kw", "avoid_kw", "limit_to_kw", "limited_at", "4 values", "twice"):
        assert any(word in one for one in problems), word


def test_another_header_or_no_utf8_is_one_error() -> None:
    said = "f.csv:1: the columns are meter, kw; expected " + ", ".join(COLUMNS)
    assert parsed("f.csv", b"meter,kw\n1,2\n") == ([], [said])
    assert len(parsed("f.csv", b"\xff")[1]) == 1
    assert len(parsed("f.csv", b"")[1]) == 1


def test_errors_are_counted_to_a_limit() -> None:
    assert len(parsed("f.csv", (HEAD + "\nx\n" * 1000).encode())[1]) == PROBLEMS_MAX


@given(st.binary(max_size=300))
def test_no_content_raises(content: bytes) -> None:
    parsed("f.csv", HEAD.encode() + b"\n" + content)
    parsed("f.csv", content)
