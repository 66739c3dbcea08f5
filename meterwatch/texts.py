"""Free text from outside: what may be stored."""

from __future__ import annotations

from meterwatch.errors import Rejected


def check_text(field: str, text: str, chars_min: int, chars_max: int) -> None:
    """Rejected unless the text has an allowed length and no NUL, which PostgreSQL cannot store."""
    if not chars_min <= len(text) <= chars_max:
        raise Rejected(
            "TEXT_LENGTH",
            f"{field} has {len(text)} characters; {chars_min} to {chars_max} are allowed; shorten or give it",
        )
    if "\0" in text:
        raise Rejected("TEXT_NUL", f"{field} contains a NUL character; remove it")
