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


def visible(text: str) -> str:
    """The text as a terminal may show it: what is no printable character becomes its escape, e.g. \\x1b.

    Names come from files and other systems; one with an escape sequence could rewrite an operator's screen, one with an
    override of the direction of writing could read as another name.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
