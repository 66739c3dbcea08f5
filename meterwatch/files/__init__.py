"""Files of other systems to columns: NEM12 and NEM13, and plain CSV with a header.

read_file looks at the content, not at the name, and returns a FileReads or raises one FileError with every problem
found. Refuses to know gRPC and the database.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

from meterwatch.files.columns import FileError, FileReads
from meterwatch.files.csvfile import read_csv
from meterwatch.files.lines import LINE_MAX, blocks
from meterwatch.files.nem12 import MARKET_OFFSET_S, RECORDS, read_nem12

__all__ = ["FileError", "FileReads", "read_file"]

UNZIPPED_BYTES_MAX = 4 << 30
"""A month of 15-minute reads of 30,000 meters as CSV; a small archive that claims more is a mistake or an attack."""

_BINARY = {b"PAR1": "a Parquet file", b"\x1f\x8b": "gzip", b"PK\x03\x04": "a zip file inside a zip file"}


def read_file(
    path: str | Path,
    *,
    time_zone: str | None = None,
    interval_s: int | None = None,
    utc_offset_s: int = MARKET_OFFSET_S,
) -> FileReads:
    """Read a NEM12, NEM13 or CSV file, plain or alone in a zip; raise FileError if anything in it is wrong.

    time_zone, interval_s: for CSV (meterwatch.files.csvfile). utc_offset_s: the clock of a NEM12 file.
    """
    file = Path(path).name
    try:
        with Path(path).open("rb") as stream:
            if stream.read(4) == b"PK\x03\x04":
                return _read_zip(stream, file, time_zone, interval_s, utc_offset_s)
            stream.seek(0)
            return _read(stream, file, time_zone, interval_s, utc_offset_s)
    except OSError as error:
        raise FileError(file, 0, f"cannot be read: {error.strerror or error}") from error


def _read_zip(
    stream: IO[bytes], file: str, time_zone: str | None, interval_s: int | None, utc_offset_s: int
) -> FileReads:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
            if len(members) != 1:
                raise FileError(file, 0, f"the zip holds {len(members)} files; expected one; unpack it")
            if members[0].file_size > UNZIPPED_BYTES_MAX:
                size = members[0].file_size
                raise FileError(
                    file, 0, f"{size} bytes unpacked; expected at most {UNZIPPED_BYTES_MAX}; split the file"
                )
            with archive.open(members[0]) as inner:
                return _read(inner, f"{file}/{members[0].filename}", time_zone, interval_s, utc_offset_s)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileError(file, 0, f"cannot be unpacked ({error}); expected a complete zip without password") from error


def _read(stream: IO[bytes], file: str, time_zone: str | None, interval_s: int | None, utc_offset_s: int) -> FileReads:
    head = stream.read(LINE_MAX)
    for magic, name in _BINARY.items():
        if head.startswith(magic):
            raise FileError(file, 0, f"the file is {name}; expected NEM12 or CSV text; unpack or convert it")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise FileError(file, 1, "the file is empty; expected NEM12 (100,NEM12,...) or CSV (meter,end,...)")
    lines = blocks(stream, file, head)
    if text[:4].rstrip(b",\r\n").decode("latin-1") in RECORDS:
        return read_nem12(file, lines, utc_offset_s)
    return read_csv(file, lines, time_zone=time_zone, interval_s=interval_s)
