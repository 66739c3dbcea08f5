"""A stream that ended with its credential is opened again with the renewed one; a refused credential is final."""

from __future__ import annotations

import pytest

from meterwatch.client.retry import Failure


@pytest.mark.parametrize(("retry_after_s", "again"), [(0.0, True), (None, False)])
def test_what_is_unauthenticated_is_tried_again_only_where_the_service_says_so(
    retry_after_s: float | None, again: bool
) -> None:
    assert Failure("UNAUTHENTICATED", "TOKEN_EXPIRED", "", retry_after_s).retried is again


def test_what_is_denied_is_never_tried_again() -> None:
    assert not Failure("PERMISSION_DENIED", "ROLE_MISSING", "", None).retried
