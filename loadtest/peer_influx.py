"""InfluxDB 1.x as Debian packages it: each read is one point with three fields."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from loadtest.fleet import ONE_PHASE
from loadtest.peer_server import PeerServer, directory_bytes, free_port
from loadtest.text import MEASUREMENT, Way

DATABASE: Final = "bench"
_CONFIG: Final = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc_port}"
[meta]
  dir = "{home}/meta"
[data]
  dir = "{home}/data"
  wal-dir = "{home}/wal"
[http]
  bind-address = "127.0.0.1:{port}"
"""


class Influx(PeerServer):
    """See module."""

    name = "influxdb"
    durable = "yes: each write is in its write-ahead log and fsynced (wal-fsync-delay = 0s)"
    ways = tuple(Way(n, rows) for n in (1, 2, 4) for rows in (5_000, 10_000))
    quiet_after_s = 2.0
    paths = {"line": f"/write?db={DATABASE}&precision=s"}  # noqa: RUF012

    def arguments(self) -> list[str]:
        config = self.directory / "influxdb.conf"
        if not config.exists():
            config.write_text(_CONFIG.format(home=self.directory, port=self.port, rpc_port=free_port()))
        return ["-config", str(config)]

    def healthy(self) -> bool:
        answer = self.ask("/query?" + urlencode({"q": f"CREATE DATABASE {DATABASE}"}), b"")
        return "error" not in answer["results"][0]

    def count(self, after_s: int, until_s: int) -> int:
        fields = ", ".join(f"count({name})" for name in ONE_PHASE)
        query = f"SELECT {fields} FROM {MEASUREMENT} WHERE time > {after_s}s AND time <= {until_s}s"
        result = self.ask("/query?" + urlencode({"db": DATABASE, "q": query}))["results"][0]
        if "error" in result:
            raise RuntimeError(f"InfluxDB did not count: {result['error']}")
        if "series" not in result:
            return 0
        found = set(result["series"][0]["values"][0][1:])
        if len(found) != 1:
            raise RuntimeError(f"the channels hold different numbers of reads: {sorted(found)}")
        return int(found.pop())

    def stored_bytes(self) -> int:
        # What is in the write-ahead log is nowhere else: a segment goes when its points are in a file of their own.
        return directory_bytes(self.directory / "data" / DATABASE, self.directory / "wal" / DATABASE)
