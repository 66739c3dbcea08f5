"""What lies over the list: a prompt for an action, the explanation of an alarm, the keys."""

from __future__ import annotations

from datetime import tzinfo
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from meterwatch.cli.explain_page import explain_page
from meterwatch.texts import visible
from meterwatch.v1 import alarms_pb2 as pb

HELP = """\
 up down j k   move                     a   acknowledge, with a note
 PgUp PgDn     a page                   s   shelve: how long and why
 Home End      first, last              c   comment
 /             filter                   e   explain
 Enter         what is folded into it   p   stop the display, go on
 Esc           back, no filter          q   leave

 SEV    CRIT HIGH MED low
 STATE  ! UNACK   active, nobody has taken note      ~ RTN     over, nobody has taken note
        v ACK     active, somebody has               - FOLDED  part of another alarm
        z SHELF   put aside for a time               x OUT     out of service
 +n     so many alarms are folded into this one

 Filter: all of it must apply. Words are looked for in asset, summary, district, feeder and id;
 district= feeder= type= asset= kind= level= assigned=   one of these, e.g. district=North,South
 state=unack,ack,rtn   severity=high (or graver)   shelved=no, yes, only

 LIVE: told within the last seconds. BLIND: nothing was heard for 15 s, or nothing
 came through the service for 90 s; what is shown may be wrong.
"""


class Answer(NamedTuple):
    """What was put into a prompt, field by field."""

    values: tuple[str, ...]


class Prompt(ModalScreen[Answer | None]):
    """Fields to fill in for one alarm; Enter in the last one answers, Escape does not.

    Enter and Tab move on at once, before they are a field's: what is typed ahead belongs to the next field.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "back"),
        Binding("tab,enter", "next_field", "next", priority=True),
    ]

    def __init__(self, title: str, fields: tuple[tuple[str, str], ...]) -> None:
        """fields: name and first value of each."""
        super().__init__()
        self._title = title
        self._fields = fields

    def compose(self) -> ComposeResult:
        with Vertical(id="prompt"):
            yield Label(Text(visible(self._title)))
            for i, (name, value) in enumerate(self._fields):
                yield Input(value, placeholder=name, id=f"field-{i}", max_length=2000)

    @property
    def _next_field(self) -> Input | None:
        """The field after the one in focus; None: it is the last."""
        inputs = list(self.query(Input))
        at = inputs.index(self.focused) if isinstance(self.focused, Input) else -1
        return inputs[at + 1] if at + 1 < len(inputs) else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "next_field" or self._next_field is not None

    def action_next_field(self) -> None:
        self.set_focus(self._next_field)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the last field, after all that was typed into it."""
        event.stop()  # the console would take it for a filter
        self.dismiss(Answer(tuple(one.value.strip() for one in self.query(Input))))


class Explanation(ModalScreen[None]):
    """Why there is an alarm; scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,e", "dismiss(None)", "back")]

    def __init__(self, zone: tzinfo) -> None:
        super().__init__()
        self._zone = zone

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="explanation"):
            yield Static("asking ...", id="page")

    def answered(self, found: pb.ExplainResponse | str) -> None:
        """Show the answer, or the sentence why there is none."""
        page = Text(visible(found)) if isinstance(found, str) else explain_page(found, self._zone)
        self.query_one("#page", Static).update(page)


class Help(ModalScreen[None]):
    """The keys and the signs."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss(None)", "back")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(Text(HELP))
