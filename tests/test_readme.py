"""The README's example does what it says, as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import orjson
import psycopg
from pydantic import SecretStr

from meterwatch.app import running
from meterwatch.config import Config, Database, Server
from meterwatch.files import read_file

ROOT = Path(__file__).parents[1]


async def test_the_example_of_the_readme_sends_its_file(dsn: str) -> None:
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (name,) = re.findall(r'read_file\("([^"]+)"\)', code)
    (command,) = re.findall(r"meterwatch (send --register .*)", text)
    assert command.split()[-1] == name
    rows = read_file(ROOT / name).storable().rows
    async with running(Config(server=Server(port=0), database=Database(url=SecretStr(dsn)))) as service:
        cli = ("-c", "from meterwatch.cli import app; app()", *command.split())
        sent = await _output(*cli, "--address", service.address, "-o", "jsonl")
        assert {"what": "accepted", "count": rows} in map(orjson.loads, sent.splitlines())
        output = await _output("-c", code.replace("127.0.0.1:50551", service.address))
    assert output.split()[:4] == [str(rows), "0", str(rows), "0"]
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM reads").fetchone() == (rows,)


async def _output(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()
