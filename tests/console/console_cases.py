"""A link without a service: the test says what comes and sees what was asked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from meterwatch.console.link import Health, News
from meterwatch.console.rows import Row
from meterwatch.errors import MeterwatchError
from meterwatch.v1 import alarms_pb2 as pb

ROW = Row(
    "OUT-1", "OUTAGE", "transformer", "T-1", "F-1", "North", pb.ALARM_STATE_UNACK_ACTIVE, pb.SEVERITY_HIGH,
    "SUSTAINED", 1_700_000_000_000_000, 0, 1, "", "Transformer T-1 without supply", "", 0, False, "",
)  # fmt: skip


def row(alarm_id: str, **changes: Any) -> Row:
    return replace(ROW, alarm_id=alarm_id, **changes)


@dataclass
class FakeLink:
    """`come` what the service tells; `acted` and `asked` what the console did."""

    address: str = "127.0.0.1:1"
    news: News = field(default_factory=News)
    now: Health = field(default_factory=lambda: Health(0.0, True, 0, True, ""))
    acted: list[tuple[pb.ActRequest, str, int]] = field(default_factory=list)
    answer: str = ""
    explained: pb.ExplainResponse | None = None
    figures: pb.GetKpisResponse = field(default_factory=pb.GetKpisResponse)
    told: int = 0
    """Cursor of what came last."""
    drawn: list[int] = field(default_factory=list)

    def start(self) -> None: ...

    def close(self) -> None: ...

    def come(self, *rows: Row, begun: bool = False) -> None:
        self.told += 1
        self.news = News(begun, [*self.news.rows, *rows], self.news.changes + len(rows), upto=self.told)

    def take(self) -> News:
        news, self.news = self.news, News()
        return news

    def shown(self, seq: int) -> None:
        self.drawn.append(seq)

    def health(self) -> Health:
        return self.now

    def act(self, what: pb.ActRequest, alarm_id: str, version: int) -> str:
        self.acted.append((what, alarm_id, version))
        return self.answer

    def explain(self, alarm_id: str) -> pb.ExplainResponse:
        if self.explained is None:
            raise MeterwatchError(f"alarm '{alarm_id}' is not known")
        return self.explained

    def kpis(self, operators: int) -> pb.GetKpisResponse:
        return self.figures
