"""The console under textual's pilot: what shows, what the keys do, and that no name can write on the screen."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any

from console_cases import FakeLink, row
from rich.console import Console as RichConsole
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Input, Static

from meterwatch.console.app import CALL, Console
from meterwatch.console.link import Health
from meterwatch.console.screens import Prompt
from meterwatch.console.table import BOLD, PLAIN, AlarmTable, cells
from meterwatch.texts import visible
from meterwatch.v1 import alarms_pb2 as pb


@dataclass
class World:
    link: FakeLink
    app: Console
    pilot: Pilot[None]

    @property
    def table(self) -> AlarmTable:
        return self.app.query_one("#table", AlarmTable)

    def lines(self) -> list[str]:
        """The list as it is on the screen, without its title."""
        return [self.table.render_line(y).text.rstrip() for y in range(1, self.table.size.height)]

    def shown(self) -> list[str]:
        """Assets on the screen, from above."""
        return [line[46:68].strip() for line in self.lines() if line]

    def text(self, name: str) -> str:
        return str(self.app.query_one(f"#{name}", Static).render())

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.answered()

    async def answered(self) -> None:
        """Wait until no call is under way."""
        while any(thread.name == CALL for thread in threading.enumerate()):
            await self.pilot.pause(0.01)  # its answer comes through this loop
        await self.pilot.pause()

    async def comes(self, *rows: Any, begun: bool = False) -> None:
        self.link.come(*rows, begun=begun)
        self.app.renew()
        await self.pilot.pause()


@asynccontextmanager
async def console(*rows: Any, size: tuple[int, int] = (120, 20), **link: Any) -> AsyncIterator[World]:
    fake = FakeLink(**link)
    fake.come(*rows, begun=True)
    app = Console(fake, "Kim")
    async with app.run_test(size=size) as pilot:
        world = World(fake, app, pilot)
        await world.answered()
        yield world


async def test_the_gravest_is_on_top_and_a_root_says_how_many_are_folded_into_it() -> None:
    folded = [row(f"C{i}", asset=f"T-{i}", parent_id="R", state=pb.ALARM_STATE_SUPPRESSED) for i in range(3)]
    root = row("R", asset="F-1", severity=pb.SEVERITY_CRITICAL)
    async with console(row("A"), *folded, root) as world:
        assert world.shown() == ["F-1", "T-1"]
        assert "CRIT ! UNACK  +3" in world.lines()[0]
        await world.press("enter")
        assert world.shown() == ["T-0", "T-1", "T-2"]
        assert "- FOLDED" in world.lines()[0]
        await world.press("escape")
        assert world.shown() == ["F-1", "T-1"]


async def test_acknowledging_names_the_alarm_and_version_under_the_cursor_and_waits_for_the_service_to_tell() -> None:
    async with console(row("A", asset="T-A", severity=4), row("B", asset="T-B", version=7)) as world:
        await world.press("down", "a", *"on it", "enter")
        [(what, alarm_id, version)] = world.link.acted
        assert (alarm_id, version) == ("B", 7)
        assert (what.kind, what.operator, what.note) == (pb.ACTION_KIND_ACKNOWLEDGE, "Kim", "on it")
        assert "done" in world.text("last")
        assert "! UNACK" in world.lines()[1]
        await world.comes(row("B", asset="T-B", version=8, state=pb.ALARM_STATE_ACK_ACTIVE))
        assert "v ACK" in world.lines()[1]


async def test_what_the_service_refuses_is_said() -> None:
    async with console(row("A"), answer="alarm A is at version 3") as world:
        await world.press("a", "enter")
        assert "version 3" in world.text("last")


async def test_shelving_asks_how_long_and_why() -> None:
    async with console(row("A")) as world:
        await world.press("s", "home", "delete", "delete", *"30m", "enter", *"crew", "enter")
        [(what, *_)] = world.link.acted
        assert (what.kind, what.shelve_s, what.note) == (pb.ACTION_KIND_SHELVE, 1800, "crew")
        await world.press("s", *"x", "enter", "enter")
        assert "no time" in world.text("last")
        assert len(world.link.acted) == 1


async def test_a_comment_and_a_prompt_that_is_left() -> None:
    async with console(row("A")) as world:
        await world.press("c", *"seen", "enter")
        await world.press("c", *"not this", "escape")
        assert [(what.kind, what.note) for what, *_ in world.link.acted] == [(pb.ACTION_KIND_COMMENT, "seen")]


async def test_the_cursor_stays_on_its_alarm_when_others_come_above_it_and_on_its_line_when_it_goes() -> None:
    rows = [row(f"A{i}", asset=f"T-{i}", onset_us=1000 - i) for i in range(50)]
    async with console(*rows) as world:
        await world.press(*["down"] * 25, *["up"] * 5)  # in the middle of the screen
        before = world.lines().index(next(line for line in world.lines() if "T-20 " in line))
        await world.comes(*(row(f"N{i}", asset=f"N-{i}", severity=4) for i in range(5)))
        selected = world.table.selected
        assert selected is not None
        assert selected.alarm_id == "A20"
        assert "T-20 " in world.lines()[before]
        await world.comes(row("A20", version=2, state=pb.ALARM_STATE_NORMAL))
        selected = world.table.selected
        assert selected is not None
        assert selected.alarm_id == "A21"


async def test_a_filter_shows_a_part_and_one_that_means_nothing_says_so() -> None:
    async with console(row("A", asset="T-A"), row("B", asset="T-B", district="South")) as world:
        await world.press("slash", *"district=South", "enter")
        assert world.shown() == ["T-B"]
        assert "1 of 2 alarms" in world.text("link")
        await world.comes(row("C", asset="T-C", district="South"), row("D", asset="T-D"))
        assert world.shown() == ["T-B", "T-C"]
        await world.press("slash", *" colour=red", "enter")
        assert "is no filter" in world.text("last")
        await world.press("escape", "escape")
        assert len(world.shown()) == 4


async def test_while_paused_the_display_stands_still_and_says_what_came() -> None:
    async with console(row("A", asset="T-A")) as world:
        await world.press("p")
        await world.comes(row("B", asset="T-B"), row("A", asset="T-A", version=2, state=pb.ALARM_STATE_ACK_ACTIVE))
        assert world.shown() == ["T-A"]
        assert "! UNACK" in world.lines()[0]
        assert "PAUSED, 2 changes since" in world.text("link")
        await world.press("p")
        assert world.shown() == ["T-B", "T-A"]


async def test_the_link_says_how_old_the_news_is_and_is_blind_after_15_s() -> None:
    async with console(row("A")) as world:
        assert "LIVE" in world.text("link")
        world.link.now = Health(16.0, True, 2, True, "no service")
        world.app.renew()
        assert "BLIND: nothing heard for 16 s" in world.text("link")
        assert "reconnected 2 x" in world.text("link")
        assert "no service" in world.text("last")
        world.link.now = Health(1.0, True, 2, False, "")
        world.app.renew()
        assert "RULES NOT READY" in world.text("link")


async def test_a_new_snapshot_replaces_the_list_and_keeps_filter_and_group() -> None:
    root, child = row("R", asset="F-1"), row("C", asset="T-C", parent_id="R")
    async with console(root, child, row("gone", asset="T-G")) as world:
        await world.press("enter")
        assert world.shown() == ["T-C"]
        await world.comes(root, child, row("C2", asset="T-D", parent_id="R"), begun=True)
        assert world.shown() == ["T-C", "T-D"]
        await world.comes(row("R", version=2, state=pb.ALARM_STATE_NORMAL))
        assert "is over" in world.text("last")
        assert world.shown() == ["T-C", "T-D"]
        assert "2 of 2" in world.text("link")


async def test_a_narrow_screen_has_fewer_columns_and_the_summary_still() -> None:
    async with console(row("A", assigned_to="crew 4"), size=(80, 10)) as world:
        [line, *_] = world.lines()
        assert len(line) <= 80
        assert "T-1" in line
        assert "@crew 4 Transf" in line
        assert "North" not in line


async def test_a_flood_is_shown_by_a_banner() -> None:
    figures = pb.GetKpisResponse(flood_now=True, paging=42, pages=77)
    async with console(row("A"), figures=figures) as world:
        assert world.app.query_one("#flood").display
        assert "FLOOD" in world.text("flood")
        assert "42" in world.text("flood")


async def test_a_storm_is_shown_by_a_banner_and_its_single_meters_stand_last() -> None:
    storm = pb.Storm(
        reason=pb.STORM_REASON_OFF, district="North", since_us=1_700_000_000_000_000, meters=5210, meters_off=412,
        roots=14, paging=31, aside=9,
    )  # fmt: skip
    rows = [row("M", asset_kind="meter", asset="M-1", onset_us=9, severity=pb.SEVERITY_MEDIUM), row("C", severity=1)]
    figures = pb.GetKpisResponse(storm=[storm])
    async with console(*rows, figures=figures) as world:
        assert world.app.query_one("#flood").display
        for words in ("STORM: North since 22:13", "412 of 5,210 meters off (7.9%)", "14 outages", "9 of single meters"):
            assert words in world.text("flood")
        assert "FLOOD" not in world.text("flood")
        assert world.shown() == ["T-1", "M-1"]
        world.app._told_kpis(pb.GetKpisResponse())
        await world.press("home")
        assert not world.app.query_one("#flood").display
        assert world.shown() == ["M-1", "T-1"]


async def test_explain_shows_the_page_or_why_there_is_none() -> None:
    found = pb.ExplainResponse(alarm=pb.Alarm(alarm_id="A", summary="because", evidence_json="{}"))
    async with console(row("A"), explained=found) as world:
        await world.press("e")
        page = world.app.screen.query_one("#page", Static)
        printer = RichConsole(width=100, record=True)
        with printer.capture() as capture:
            printer.print(page.content)
        assert "because" in capture.get()
        await world.press("escape")
        world.link.explained = None
        await world.press("e")
        assert "is not known" in str(world.app.screen.query_one("#page", Static).render())
        await world.press("escape", "question_mark")
        assert "acknowledge" in str(world.app.screen.query_one(Static).render())


async def test_a_service_that_does_not_answer_keeps_nobody_from_leaving() -> None:
    answers = threading.Event()

    class Hanging(FakeLink):
        def explain(self, alarm_id: str) -> pb.ExplainResponse:
            answers.wait()
            raise ValueError("too late")

    link = Hanging()
    link.come(row("A"), begun=True)
    app = Console(link, "Kim")
    async with app.run_test() as pilot:
        await pilot.press("e", "escape", "q")
    assert not app.is_running
    answers.set()


async def test_keys_on_an_empty_list_do_nothing_but_say_so() -> None:
    async with console() as world:
        await world.press("a", "e", "down", "end", "enter", "pagedown")
        assert world.link.acted == []
        assert "nothing is folded" in world.text("last")


async def test_the_filter_line_takes_keys_as_letters() -> None:
    async with console(row("A")) as world:
        await world.press("slash", "a", "q", "e")
        assert world.app.query_one("#filter", Input).value == "aqe"
        assert world.link.acted == []


async def test_what_is_typed_ahead_of_the_filter_line_is_no_key_of_the_list() -> None:
    async with console(row("A")) as world:
        for key, character in (("slash", "/"), ("s", "s"), ("a", "a")):
            world.app.post_message(Key(key, character))  # not waiting for what the one before does
        await world.pilot.pause()
        assert world.app.query_one("#filter", Input).value == "sa"
        assert not isinstance(world.app.screen, Prompt)


async def test_what_is_typed_ahead_in_a_prompt_belongs_to_the_field_it_was_meant_for() -> None:
    async with console(row("A")) as world:
        await world.press("s")
        for key, character in (("tab", "\t"), ("x", "x"), ("y", "y"), ("enter", "\r")):
            world.app.post_message(Key(key, character))
        await world.answered()
        [(what, _, _)] = world.link.acted
        assert (what.shelve_s, what.note) == (3600, "xy")


def test_what_is_for_planning_says_so_and_does_not_wait_for_anybody() -> None:
    one = row("F", type="FORECAST_OVERLOAD", summary="140 C tomorrow")
    for planning, said in ((True, "to plan with: 140 C tomorrow"), (False, "140 C tomorrow")):
        parts = cells(replace(one, for_planning=planning), 1, 200, UTC)
        assert parts[-1][0].strip() == said
        assert parts[-1][1] == (PLAIN if planning else BOLD)


async def test_no_name_writes_on_the_screen() -> None:
    evil = "\x1b]0;x\x07\x1b[2J\u202egnp\x9b31m\u2028"
    one = row("E", asset=evil, district=evil, type=evil, summary="[red]a[/red] " + evil)
    for text, _ in cells(one, 1, 200, UTC):
        assert text.isprintable()
    assert "[red]a[/red]" in "".join(text for text, _ in cells(one, 1, 200, UTC))
    assert visible(evil).isprintable()
    assert visible("Müller 变压器 [1]") == "Müller 变压器 [1]"
    async with console(one, size=(200, 10)) as world:
        assert world.lines()[0].isprintable()
        await world.press("a")
        assert str(world.app.screen.query_one("#prompt Label", Static).render()).isprintable()


async def test_changes_are_told_as_shown_when_they_are_drawn_and_not_behind_a_pause_or_a_page() -> None:
    async with console(row("A")) as world:
        assert world.link.drawn == [1]
        await world.press("p")
        await world.comes(row("B"))
        assert world.link.drawn == [1]
        await world.press("p")
        world.app.renew()
        await world.pilot.pause()
        assert world.link.drawn == [1, 2]
        await world.press("question_mark")
        await world.comes(row("C"))
        assert world.link.drawn == [1, 2]
        await world.press("escape")
        world.app.renew()
        await world.pilot.pause()
        assert world.link.drawn == [1, 2, 3]
