"""VictoriaMetrics, single node, as Debian packages it: each read becomes three samples of three series."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from loadtest.fleet import ONE_PHASE
from loadtest.peer_server import PeerServer, PosterOf, directory_bytes
from loadtest.text import MEASUREMENT, Way

_CSV_FORMAT: Final = "1:label:meter,2:time:unix_s," + ",".join(
    f"{column}:metric:{MEASUREMENT}_{name}" for column, name in enumerate(ONE_PHASE, 3)
)


class Victoria(PeerServer):
    """See module."""

    name = "victoriametrics"
    durable = "no: held in memory up to 5 s (-inmemoryDataFlushInterval), no write-ahead log"
    ways = tuple(Way(n, rows, text) for text in ("line", "csv") for n in (1, 2, 4) for rows in (5_000, 10_000))
    quiet_after_s = 7.0
    paths = {"line": "/write?precision=s", "csv": "/api/v1/import/csv?" + urlencode({"format": _CSV_FORMAT})}  # noqa: RUF012

    def __init__(self, command: list[str], poster_of: PosterOf) -> None:
        self._snapshots: list[str] = []
        super().__init__(command, poster_of)

    def arguments(self) -> list[str]:
        return [f"-storageDataPath={self.directory / 'data'}", f"-httpListenAddr=127.0.0.1:{self.port}"]

    def healthy(self) -> bool:
        return bool(self.ask("/health") == "OK")

    def make_durable(self) -> None:
        # A snapshot is what makes it write all it holds, with fsync; there is no other order for that.
        answer = self.ask("/snapshot/create")
        if answer["status"] != "ok":
            raise RuntimeError(f"VictoriaMetrics made no snapshot: {answer}")
        self._snapshots.append(answer["snapshot"])

    def count(self, after_s: int, until_s: int) -> int:
        while self._snapshots:
            self.ask(f"/snapshot/delete?snapshot={self._snapshots.pop()}")
        self.ask("/internal/force_flush")
        found = set()
        for name in ONE_PHASE:
            query = f"sum(count_over_time({MEASUREMENT}_{name}[{until_s - after_s}s]))"
            answer = self.ask("/api/v1/query?" + urlencode({"query": query, "time": until_s, "nocache": 1}))
            result = answer["data"]["result"]
            found.add(int(result[0]["value"][1]) if result else 0)
        if len(found) != 1:
            raise RuntimeError(f"the channels hold different numbers of reads: {sorted(found)}")
        return found.pop()

    def stored_bytes(self) -> int:
        return directory_bytes(self.directory / "data" / "data", self.directory / "data" / "indexdb")
