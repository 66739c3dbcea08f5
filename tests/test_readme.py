"""The README's example does what it says, as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import psycopg
from pydantic import SecretStr

from meterwatch.app import running
from meterwatch.client import RegistryFile, import_registry
from meterwatch.config import Config, Database, Server
from meterwatch.files import read_file

ROOT = Path(__file__).parents[1]


async def test_the_example_of_the_readme_sends_its_file(dsn: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (name,) = re.findall(r'read_file\("([^"]+)"\)', code)
    file = read_file(ROOT / name).storable()
    days = 36_500
    registry = [
        RegistryFile("head_ends", "h", f"head_end,time_zone,late_window_days\nHES-1,UTC,{days}\n".encode()),
        RegistryFile(
            "meters",
            "m",
            "\n".join(
                [
                    "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,"
                    "terminal_type,comm_mode,concentrator,head_end",
                    *(f"{meter},,ABC,230,100,,1,1800,2000-01-01,,,,HES-1" for meter in file.meter),
                ]
            ).encode(),
        ),
    ]
    async with running(Config(server=Server(port=0), database=Database(url=SecretStr(dsn)))) as service:
        answer = await asyncio.to_thread(import_registry, service.address, registry)
        assert not answer.error, answer.error
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code.replace("127.0.0.1:50551", service.address), cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output.decode().split()[:4] == [str(file.rows), str(file.rows), "0", "0"]
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM reads").fetchone() == (file.rows,)
