"""The README's examples do what it says, as they stand there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import orjson
import psycopg
import yaml
from pydantic import SecretStr

from meterwatch.app import running
from meterwatch.config import Config, Database, Server
from meterwatch.files import read_file

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LISTENS = "127.0.0.1:50551"


async def test_the_examples_of_the_readme_send_and_hear(dsn: str) -> None:
    one_read, whole_file, feed = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (name,) = re.findall(r'read_file\("([^"]+)"\)', whole_file)
    (send,) = re.findall(r"meterwatch (send --register .*)", README)
    (grid,) = re.findall(r"^    meterwatch (registry import \S+)", README, re.MULTILINE)
    (meter,) = re.findall(r"meterwatch reads list (\w+)  ", README)
    assert send.split()[-1] == name
    rows = read_file(ROOT / name).storable().rows
    async with running(Config(server=Server(port=0), database=Database(url=SecretStr(dsn)))) as service:

        def cli(command: str) -> list[str]:
            call = "from meterwatch.cli import app; app()"
            return ["-c", call, *command.split(), "--address", service.address, "-o", "jsonl"]

        await _output(*cli(grid)[:-2])
        sent = await _output(*cli(send))
        assert {"what": "accepted", "count": rows} in map(orjson.loads, sent.splitlines())
        assert len((await _output(*cli(f"reads list {meter}"))).splitlines()) == rows
        output = await _output("-c", whole_file.replace(LISTENS, service.address))
        assert output.split()[:4] == [str(rows), "0", str(rows), "0"]
        assert "accepted=1" in await _output("-c", one_read.replace(LISTENS, service.address))
        heard = feed.replace("in feed:", "in feed:\n        print('heard', flush=True)").replace(
            LISTENS, service.address
        )
        assert await _begins("-c", heard) == "heard\n"
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM reads").fetchone() == (rows + 1,)


async def test_the_rule_of_the_readme_passes_its_own_test(tmp_path: Path) -> None:
    section = README[README.index("## Write a rule") : README.index("## On a network")]
    rule, test = (
        re.sub("^    ", "", one, flags=re.MULTILINE) for one in re.findall(r"(?:^    .*\n)+", section, re.M)[:2]
    )
    assert yaml.safe_load(test)["rules"] == ["voltage.yaml"]
    (tmp_path / "voltage.yaml").write_text(rule)
    (tmp_path / "voltage_test.yaml").write_text(test)
    call = ("-c", "from meterwatch.cli import app; app()", "rules")
    assert "voltage_high" in await _output(*call, "check", str(tmp_path / "voltage.yaml"))
    await _output(*call, "test", str(tmp_path / "voltage_test.yaml"))
    (tmp_path / "voltage_test.yaml").write_text(test.replace("1h15m", "1h"))
    process = await _started(*call, "test", str(tmp_path / "voltage_test.yaml"))
    await process.communicate()
    assert process.returncode == 1


async def _started(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


async def _output(*arguments: str) -> str:
    process = await _started(*arguments)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def _begins(*arguments: str) -> str:
    """The first line of a program that does not end by itself."""
    process = await _started(*arguments)
    assert process.stdout is not None
    line = await process.stdout.readline()
    process.kill()
    await process.wait()
    return line.decode()
