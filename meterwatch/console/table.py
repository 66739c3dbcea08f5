"""The list on the screen: only the lines that show are drawn, however many there are.

The cursor is on an alarm, not on a line: when the list moves, the alarm stays under the cursor and, where it can, on
the same line of the screen. On the first line it stays there and what is most urgent comes under it; actions therefore
name the alarm and the version they are meant for. What a line says by colour it says by a word too.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar, Final

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from meterwatch.console.order import Lines
from meterwatch.console.rows import Row
from meterwatch.texts import visible
from meterwatch.v1 import alarms_pb2 as pb

SEVERITY_WORD: Final = {1: "low ", 2: "MED ", 3: "HIGH", 4: "CRIT"}
SEVERITY_STYLE: Final = {
    1: Style(color="bright_black"),
    2: Style(color="yellow"),
    3: Style(color="bright_red"),
    4: Style(color="bright_white", bgcolor="red", bold=True),
}
STATE_WORD: Final[dict[int, str]] = {
    pb.ALARM_STATE_UNACK_ACTIVE: "! UNACK ",
    pb.ALARM_STATE_ACK_ACTIVE: "v ACK   ",
    pb.ALARM_STATE_RTN_UNACK: "~ RTN   ",
    pb.ALARM_STATE_SUPPRESSED: "- FOLDED",
}
PLAIN: Final = Style()
BOLD: Final = Style(bold=True)
DIM: Final = Style(dim=True)
REVERSE: Final = Style(reverse=True)
WIDE: Final = {"SEV": 4, "STATE": 8, "+": 6, "SINCE": 14, "TYPE": 9, "ASSET": 22, "DISTRICT": 12}
"""Title and width; the summary has the rest."""
NARROW: Final = {"SEV": 4, "STATE": 8, "+": 5, "SINCE": 14, "ASSET": 16}
NARROW_BELOW: Final = 110


def columns(width: int) -> dict[str, int]:
    """The columns of a screen so wide, without the summary."""
    return NARROW if width < NARROW_BELOW else WIDE


def state_word(row: Row) -> str:
    """Eight characters for the state, or for what lies over it."""
    if row.out_of_service:
        return "x OUT   "
    return "z SHELF " if row.shelved_until_us else STATE_WORD.get(row.state, "?       ")


def cells(row: Row, count: int, width: int, zone: tzinfo, under: bool = False) -> list[tuple[str, Style]]:
    """One line, `width` cells wide: text and style of each part. Every text from outside is escaped.

    under: it is in the call of another alarm.
    """
    since = datetime.fromtimestamp(row.onset_us // 1_000_000, UTC).astimezone(zone).strftime("%m-%d %H:%M:%S")
    waits = row.state in (pb.ALARM_STATE_UNACK_ACTIVE, pb.ALARM_STATE_RTN_UNACK)
    unacknowledged = waits and not row.overlaid and not row.for_planning
    base = DIM if row.overlaid or row.state == pb.ALARM_STATE_SUPPRESSED else BOLD if unacknowledged else PLAIN
    given = {
        "SEV": SEVERITY_WORD.get(row.severity, "?"),
        "STATE": state_word(row),
        "+": f"+{count}" if count else "",
        "SINCE": since,
        "TYPE": row.type,
        "ASSET": row.asset,
        "DISTRICT": row.district,
    }
    sizes = columns(width)
    parts = [(set_cell_size(visible(given[name]), size) + " ", base) for name, size in sizes.items()]
    parts[0] = parts[0][0], SEVERITY_STYLE.get(row.severity, PLAIN)
    who = row.assigned_to or row.acknowledged_by
    said = f"@{who} {row.summary}" if who else row.summary
    said = f"same call: {said}" if under else f"to plan with: {said}" if row.for_planning else said
    left = max(width - sum(sizes.values()) - len(sizes), 0)
    return [*parts, (set_cell_size(visible(said), left), base)]


class AlarmTable(Widget, can_focus=True):
    """The lines, a title above them, and the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home,g", "go(0)", "first", show=False),
        Binding("end,G", "go(-1)", "last", show=False),
    ]

    def __init__(self, lines: Lines, zone: tzinfo, **options: Any) -> None:
        super().__init__(**options)
        self.lines = lines
        self._zone = zone
        self._cursor = 0
        self._cursor_id = ""
        self._top = 0

    @property
    def cursor(self) -> int:
        """The line the cursor is on."""
        return self._cursor

    @property
    def selected(self) -> Row | None:
        """The alarm under the cursor."""
        return self.lines.row(self._cursor) if self._cursor < self.lines.rows else None

    @property
    def _height(self) -> int:
        return max(self.size.height - 1, 1)

    def changed(self) -> None:
        """The lines have changed: find the cursor's alarm again, and draw. Without it the cursor keeps its line."""
        at = self.lines.index(self._cursor_id) if self._cursor_id else None
        if at is not None:
            self._top += at - self._cursor
            self._cursor = at
        self._settle()
        if self._cursor_id and at is None:
            self._hold()

    def other_lines(self, lines: Lines) -> None:
        """Show other lines, the cursor on the same alarm, or else on the first line."""
        self.lines = lines
        if not self._cursor_id or lines.index(self._cursor_id) is None:
            self._cursor = self._top = 0
            self._cursor_id = ""
        self.changed()

    def _settle(self) -> None:
        """Cursor and top within the lines; the cursor on the screen."""
        last = max(self.lines.rows - 1, 0)
        self._cursor = min(max(self._cursor, 0), last)
        self._top = min(max(self._top, self._cursor - self._height + 1, 0), self._cursor)
        self._top = min(self._top, max(self.lines.rows - self._height, 0))
        self.refresh()

    def _goto(self, line: int) -> None:
        self._cursor = line
        self._settle()
        self._hold()

    def _hold(self) -> None:
        """Hold on to the alarm under the cursor; on the first line to whatever is there."""
        row = self.selected
        self._cursor_id = row.alarm_id if row is not None and self._cursor else ""

    def action_move(self, by: int) -> None:
        self._goto(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._goto(self._cursor + by * self._height)

    def action_go(self, line: int) -> None:
        self._goto(line if line >= 0 else self.lines.rows - 1)

    def on_resize(self) -> None:
        self._settle()

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        width = self.size.width
        if y == 0:
            title = " ".join(set_cell_size(name, size) for name, size in (columns(width) | {"SUMMARY": width}).items())
            return Strip([Segment(set_cell_size(title, width), BOLD)], width)
        index = self._top + y - 1
        if index >= self.lines.rows:
            return Strip.blank(width)
        row = self.lines.row(index)
        parts = cells(row, self.lines.count(row.alarm_id), width, self._zone, self.lines.stands_under(index))
        over = REVERSE if index == self._cursor else PLAIN
        return Strip([Segment(text, style + over) for text, style in parts]).adjust_cell_length(width)
