"""The rule profile of the settings is the one in place."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import SecretStr

from meterwatch.app import running
from meterwatch.config import ClockSection, Config, Database, Rules, Server
from meterwatch.wired_rules import WiredRules


async def test_the_service_judges_by_the_profile_of_its_settings(dsn: str) -> None:
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=datetime(2026, 1, 31, tzinfo=UTC)),
        rules=Rules(profile="en50160"),
    )
    async with running(config) as service:
        assert isinstance(service.pipeline.rules, WiredRules)
        assert service.pipeline.rules.engine.profile.name == "en50160"
