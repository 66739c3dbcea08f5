"""The console's application: takes the news ten times a second, draws, and does what the keys say.

The model is changed here and nowhere else, on the event loop; calls to the service run on threads. What an action did
shows when the feed tells it, so the list is never ahead of the service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, tzinfo
from typing import ClassVar, Final, TypeVar

import typer
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input, Static

from meterwatch.cli.operate import seconds
from meterwatch.console.filters import wanted
from meterwatch.console.link import Health, Link
from meterwatch.console.order import TOP, Frozen, Order
from meterwatch.console.rows import Row
from meterwatch.console.screens import Answer, Explanation, Help, Prompt
from meterwatch.console.storms import FAIR, Where, stands_aside, where, words
from meterwatch.console.table import AlarmTable
from meterwatch.errors import MeterwatchError
from meterwatch.one_call import OneCall
from meterwatch.texts import visible
from meterwatch.v1 import alarms_pb2 as pb

REFRESH_S: Final = 0.1
KPIS_S: Final = 15.0
CALL: Final = "call of the console"
"""Name of a thread that waits for the service."""
SAID_S: Final = 8.0
"""How long an answer stays on the last line."""

Answered = TypeVar("Answered")


class Told(Message):
    """The service has answered; `tell` does what the answer asks for."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self.tell = tell


class Console(App[None]):
    """`meterwatch alarms watch`."""

    TITLE = "meterwatch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #link { height: 1; }
    #flood { height: 1; display: none; }
    #table { height: 1fr; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #last { height: 1; }
    Prompt, Explanation, Help { align: center middle; }
    #prompt { width: 80%; height: auto; border: solid $primary; background: $surface; padding: 0 1; }
    #explanation, #help { width: 96%; height: 90%; border: solid $primary; background: $surface; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "acknowledge", "acknowledge"),
        Binding("s", "shelve", "shelve"),
        Binding("c", "comment", "comment"),
        Binding("e", "explain", "explain"),
        Binding("enter", "children", "children"),
        Binding("slash", "filter", "filter", priority=True),  # before keys typed ahead find the list in focus
        Binding("p", "pause", "pause"),
        Binding("escape", "step_back", "back"),
        Binding("question_mark", "help", "help"),
        Binding("q,ctrl+c", "quit", "leave"),
    ]

    def __init__(self, link: Link, operator: str, operators: int = 1, zone: tzinfo = UTC) -> None:
        super().__init__()
        self._link = link
        self._operator = operator
        self._operators = operators
        self._zone = zone
        self._stormy: Where = FAIR
        self._one_call = OneCall()
        self._order = Order(self._aside)
        self._filter = ""
        self._paused_with = 0
        """Changes that came while the display stands still."""
        self._folded = 0
        self._drawn_upto = 0
        """Cursor of the newest change that is to be told as shown; 0: there is none."""
        self._said = ""
        self._said_s = 0.0
        # Held, not asked for: a query looks at the screen in front, which may be a prompt.
        self._table = AlarmTable(self._order, zone, id="table")
        self._filter_line = Input(placeholder="district=North type=OUTAGE severity=high word", id="filter")
        self._link_line, self._flood_line, self._last_line = (Static(id=name) for name in ("link", "flood", "last"))

    def compose(self) -> ComposeResult:
        yield from (self._link_line, self._flood_line, self._table, self._filter_line, self._last_line)

    def on_mount(self) -> None:
        self._table.focus()
        self._link.start()
        self.set_interval(REFRESH_S, self.renew)
        self.set_interval(KPIS_S, self._ask_kpis)
        self.renew()
        self._ask_kpis()

    def on_unmount(self) -> None:
        self._link.close()

    # News

    def renew(self) -> None:
        """Take the news and draw what changed."""
        news = self._link.take()
        group = self._order.group
        if news.begun:
            self._order = Order.of(news.rows, self._aside, self._one_call)
        else:
            self._order.apply(news.rows)
        self._folded += news.folded
        if group != TOP and self._order.get(group) is None:
            group = TOP
            self.say("the alarm these were folded into is over")
        if news.begun or group != self._order.group:
            self._show(group)
        elif news.rows and not self._paused:
            self._table.changed()
        self._paused_with += news.changes
        self._drawn_upto = news.upto or self._drawn_upto
        if self._drawn_upto and not self._paused and len(self.screen_stack) == 1:
            self.call_after_refresh(self._link.shown, self._drawn_upto)
            self._drawn_upto = 0
        self._status()

    @property
    def _paused(self) -> bool:
        return isinstance(self._table.lines, Frozen)

    def _show(self, group: str) -> None:
        """Look at a group with the filter as it is; while paused this waits."""
        self._order.show(group, wanted(self._filter))
        if not self._paused:
            self._table.other_lines(self._order)

    def _status(self) -> None:
        health = self._link.health()
        line = Text()
        line.append(*_link_words(health))
        line.append(f"  {visible(self._link.address)}  as {visible(self._operator)}  ")
        line.append(
            f"{self._order.rows} of {len(self._order)} alarms, line {min(self._table.cursor + 1, self._order.rows)}"
        )
        if self._order.group != TOP:
            line.append(f"  folded into {visible(self._order.group)}", "bold")
        if self._filter:
            line.append(f"  /{visible(self._filter)}", "bold")
        if self._paused:
            line.append(f"  PAUSED, {self._paused_with} changes since", "bold reverse")
        if health.reconnects:
            line.append(f"  reconnected {health.reconnects} x")
        if self._folded:
            line.append(f"  {self._folded} changes came folded")
        self._link_line.update(line, layout=False)
        self._last(health)

    def _last(self, health: Health) -> None:
        said = self._said if time.monotonic() - self._said_s < SAID_S else ""
        keys = "a ack  s shelve  c comment  e explain  Enter folded  / filter  p pause  ? help  q leave"
        text = said or (health.trouble if health.blind else "") or keys
        self._last_line.update(Text(visible(text), "bold" if text is not keys else "dim"), layout=False)

    def say(self, sentence: str) -> None:
        """Put a sentence on the last line for a while."""
        self._said, self._said_s = sentence, time.monotonic()
        self._last(self._link.health())

    # What the keys do

    def action_pause(self) -> None:
        if self._paused:
            self._table.other_lines(self._order)
        else:
            self._paused_with = 0
            self._table.other_lines(self._order.frozen())
        self._status()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "filter" or self.focused is self._table

    def action_filter(self) -> None:
        self._filter_line.display = True
        self._filter_line.value = self._filter
        self.screen.set_focus(self._filter_line)  # at once: what is typed ahead must not be taken for keys

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The filter line is complete."""
        try:
            wanted(event.value)
        except ValueError as error:
            self.say(str(error))
            return
        self._filter = event.value.strip()
        self._close_filter()
        self._unpause()
        self._show(self._order.group)

    def _close_filter(self) -> None:
        self._filter_line.display = False
        self._table.focus()

    def _unpause(self) -> None:
        if self._paused:
            self.action_pause()

    def action_step_back(self) -> None:
        """One step back: the filter line, the children, the filter, the pause."""
        if self._filter_line.display:
            self._close_filter()
        elif self._order.group != TOP:
            self._unpause()
            self._show(TOP)
        elif self._filter:
            self._filter = ""
            self._unpause()
            self._show(TOP)
        else:
            self._unpause()
        self._status()

    def action_children(self) -> None:
        row = self._table.selected
        if row is None or not self._order.count(row.alarm_id):
            self.say("nothing is folded into this alarm")
            return
        self._unpause()
        self._filter = ""
        self._show(row.alarm_id)
        self._status()

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_acknowledge(self) -> None:
        self._prompt("Acknowledge", (("note (may be empty)", ""),), lambda a: _act(pb.ACTION_KIND_ACKNOWLEDGE, a[0]))

    def action_comment(self) -> None:
        self._prompt("Comment on", (("comment", ""),), lambda answer: _act(pb.ACTION_KIND_COMMENT, answer[0]))

    def action_shelve(self) -> None:
        self._prompt("Shelve", (("how long: 90s, 30m, 2h; at most 8h", "1h"), ("reason", "")), _shelve)

    def _prompt(
        self, verb: str, fields: tuple[tuple[str, str], ...], act: Callable[[tuple[str, ...]], pb.ActRequest]
    ) -> None:
        row = self._table.selected
        if row is None:
            self.say("there is no alarm under the cursor")
            return

        def answered(answer: Answer | None) -> None:
            if answer is None:
                return
            try:
                what = act(answer.values)
            except ValueError as error:
                self.say(str(error))
                return
            what.operator = self._operator
            self._do(what, row, verb)

        self.push_screen(Prompt(f"{verb} {row.alarm_id}, version {row.version}: {row.summary}", fields), answered)

    def action_explain(self) -> None:
        row = self._table.selected
        if row is None:
            self.say("there is no alarm under the cursor")
            return
        screen = Explanation(self._zone)
        self.push_screen(screen)

        def explained(found: pb.ExplainResponse | str) -> None:
            if screen.is_attached:
                screen.answered(found)

        self._ask(lambda: self._link.explain(row.alarm_id), explained)

    def _do(self, what: pb.ActRequest, row: Row, verb: str) -> None:
        def answered(refused: str) -> None:
            self.say(refused or f"{verb} {row.alarm_id}: done")

        self._ask(lambda: self._link.act(what, row.alarm_id, row.version), answered)

    def _ask_kpis(self) -> None:
        def told(found: pb.GetKpisResponse | str) -> None:
            if not isinstance(found, str):  # else the link line says that there is no service
                self._told_kpis(found)

        self._ask(lambda: self._link.kpis(self._operators), told)

    def _ask(self, ask: Callable[[], Answered], told: Callable[[Answered | str], None]) -> None:
        """Call the service, and tell the answer or why there is none; on a thread that ends with the process.

        A service that hangs must not keep an operator from leaving: textual's own workers are waited for.
        """

        def call() -> None:
            answer: Answered | str
            try:
                answer = ask()
            except Exception as error:  # the thread's boundary; what is not ours is named
                answer = str(error) if isinstance(error, MeterwatchError) else f"{type(error).__name__}: {error}"
            with suppress(RuntimeError):  # the console has been left meanwhile
                self.post_message(Told(lambda: told(answer)))

        threading.Thread(target=call, name=CALL, daemon=True).start()

    def on_told(self, message: Told) -> None:
        message.tell()

    def _told_kpis(self, found: pb.GetKpisResponse) -> None:
        line = words(found, self._zone)
        self._flood_line.display = bool(line)
        self._flood_line.update(Text(visible(line), "bold white on red"))
        stormy, one_call = where(found.storm), OneCall(tuple(found.one_call))
        if (stormy, one_call) != (self._stormy, self._one_call):
            self._stormy, self._one_call = stormy, one_call
            self._order.put_aside(self._aside, one_call)
            self._show(self._order.group)

    def _aside(self, row: Row) -> bool:
        return stands_aside(row, self._stormy)


def _link_words(health: Health) -> tuple[str, str]:
    """How old the news is, in words, and their style."""
    if health.blind:
        return f" BLIND: {health.blind} ", "bold white on red"
    if not health.rules_ready:
        return " RULES NOT READY: alarms are as stored ", "bold black on yellow"
    return f" LIVE, {health.age_s:.0f} s ", "bold black on green"


def _act(kind: pb.ActionKind.ValueType, note: str) -> pb.ActRequest:
    return pb.ActRequest(kind=kind, note=note)


def _shelve(answer: tuple[str, ...]) -> pb.ActRequest:
    how_long, reason = answer
    try:
        shelve_s = seconds(how_long)
    except typer.BadParameter as error:
        raise ValueError(error.message) from None
    return pb.ActRequest(kind=pb.ACTION_KIND_SHELVE, note=reason, shelve_s=shelve_s)
