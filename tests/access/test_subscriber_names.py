"""Under which name a subscriber's receipts are kept: one for each pair of somebody and a name, whatever the two are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterwatch.access.identity import LOCAL, Identity, owner_of, subscriber_of

TEXT = st.text("a/%2F", min_size=1, max_size=6)


def somebody(name: str) -> Identity:
    return Identity(name, frozenset())


@given(TEXT, TEXT, TEXT, TEXT)
def test_nobody_confirms_in_the_name_of_another(one: str, his: str, other: str, theirs: str) -> None:
    same = subscriber_of(somebody(one), his) == subscriber_of(somebody(other), theirs)
    assert same == ((one, his) == (other, theirs))
    if one != other:
        assert owner_of(subscriber_of(somebody(one), his)) != owner_of(subscriber_of(somebody(other), theirs))


def test_a_plain_name_stays_as_it_is() -> None:
    assert subscriber_of(somebody("anna"), "desk 1") == "anna/desk 1"
    assert subscriber_of(somebody("anna"), "") == ""
    assert subscriber_of(LOCAL, "desk 1") == "desk 1"
