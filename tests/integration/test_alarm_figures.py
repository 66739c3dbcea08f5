"""The figures of the alarm system as metrics of a running service."""

from __future__ import annotations

import asyncio

import pytest
from test_metrics import START_US, STEP_US, config, free_port, scrape

from meterwatch import alarm_figures
from meterwatch.app import running
from meterwatch.client import HeadEnd, RegistryFile, import_registry

ELEVEN = [
    RegistryFile("head_ends", "head_ends", b"head_end,time_zone,late_window_days\nHES-1,UTC,45"),
    RegistryFile("transformers", "transformers", "\n".join(
        ["transformer,feeder,rated_kva,winding,district", *(f"T{i},,100,Dyn11,D" for i in range(11))]
    ).encode()),
    RegistryFile("meters", "meters", "\n".join([
        "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
        "concentrator,head_end",
        *(f"F{i},T{i},A,230,100,,1,900,2020-01-01,,,," for i in range(11)),
    ]).encode()),
]  # fmt: skip
"""A meter on each of eleven transformers: eleven faults."""


async def test_a_flood_of_alarms_shows_in_the_metrics(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_figures, "EVERY_S", 0.05)
    port = free_port()
    async with running(config(dsn, port)) as service:
        answer = await asyncio.to_thread(import_registry, service.address, ELEVEN)
        assert not answer.error
        assert (await asyncio.to_thread(scrape, port))["alarm_flood{}"] == 0

        def all_go_off() -> None:
            with HeadEnd(service.address, "HES-1", give_up_after_s=30) as head_end:
                head_end.send_events([f"F{i}" for i in range(11)], [START_US - STEP_US] * 11, [1] * 11)
                head_end.flush()

        await asyncio.to_thread(all_go_off)
        found: dict[str, float] = {}
        while found.get("alarm_pages_10min{}") != 11:
            await asyncio.sleep(0.05)  # asked every EVERY_S
            found = await asyncio.to_thread(scrape, port)
        assert (found["alarm_flood{}"], found["alarm_flood_share_24h{}"]) == (1, pytest.approx(1 / 144))
        assert (found["alarms_paging{}"], found["alarms_stale{}"], found["alarms_chattering_24h{}"]) == (11, 0, 0)
