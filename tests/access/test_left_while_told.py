"""A caller who leaves while a refusal is on its way to him: no error of ours, no line in the log."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

from meterwatch.errors import Rejected
from meterwatch.status import abort


class Left:
    """The context of a call whose caller has gone."""

    async def abort(self, *_: Any) -> None:
        raise grpc.aio.InternalError("Failed execute_batch")


async def test_nobody_is_told_and_nothing_is_logged() -> None:
    with pytest.raises(asyncio.CancelledError):
        await abort(Left(), Rejected("BAD_QUERY", "no"))
