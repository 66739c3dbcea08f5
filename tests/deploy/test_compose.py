"""The compose file, its Dockerfile and the system unit agree with each other and with the service.

No image is built or pulled here: what is looked at is the text, and what of it can run without containers.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import SecretStr

from alarm.routes.file import read_routes
from meterwatch.app import DRAIN_S, running
from meterwatch.cli import app
from meterwatch.config import Config, Database, Metrics, Server, load_config
from storage.embedded import cache_dir, data_dir

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations"
HERE = OPERATIONS / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = SERVICES["meterwatch"]
DOCKERFILE = (HERE / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
UNIT = (OPERATIONS / "meterwatch.service").read_text("utf-8")
ENOUGH_S = 30.0  # a limit for a hung test, not an expectation


def read(name: str) -> Any:
    return yaml.safe_load((HERE / name).read_text("utf-8"))


def mounts() -> list[tuple[str, str, str]]:
    """(service, source, target) of every mount."""
    split = [(name, one.split(":")) for name, service in SERVICES.items() for one in service.get("volumes", ())]
    return [(name, source, target) for name, (source, target, *_) in split]


def listens(service: str) -> int:
    """The port that a command is told to listen on."""
    [found] = [one for one in SERVICES[service]["command"] if one.startswith("--web.listen-address=:")]
    return int(found.rpartition(":")[2])


def published() -> dict[str, tuple[str, int, int]]:
    """Service -> address and port of the host, and the port it shows, without anything set in the environment."""
    shown = {name: service["ports"] for name, service in SERVICES.items()}
    assert all(len(ports) == 1 for ports in shown.values())
    split = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", ports[0]).split(":") for name, ports in shown.items()}
    return {name: (host, int(outer), int(inner)) for name, (host, outer, inner) in split.items()}


def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    """What the service takes the environment of its container for; ConfigError if it is not sound."""
    monkeypatch.chdir(tmp_path)
    for name, value in OURS["environment"].items():
        assert isinstance(value, str), f"{name}: YAML takes {value!r} for no text"
        monkeypatch.setenv(name, value)
    return load_config()


# Files


def test_every_file_that_is_mounted_is_there_or_the_page_says_how_to_make_it() -> None:
    sources = [source for _, source, _ in mounts()] + [one["file"] for one in COMPOSE["secrets"].values()]
    assert len(sources) > 10
    for source in sources:
        if source.startswith("./secrets/"):
            assert source.removeprefix("./") in PAGE, source
        elif source.startswith("."):
            assert (HERE / source).exists(), source
        else:
            assert source in COMPOSE["volumes"], source
    used = {source for _, source, _ in mounts()}
    assert COMPOSE["volumes"].keys() <= used


def test_secrets_are_never_committed() -> None:
    assert "/docs/operations/compose/secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_files_are_where_those_who_read_them_look() -> None:
    at = {(name, target) for name, _, target in mounts()}
    prometheus, [provider] = read("prometheus.yml"), read("grafana-dashboards.yaml")["providers"]
    assert {("prometheus", path) for path in prometheus["rule_files"]} <= at
    board = next(Path(target) for _, source, target in mounts() if source == "../grafana-dashboard.json")
    assert board.parent == Path(provider["options"]["path"])
    secrets = {f"/run/secrets/{name}" for name in SERVICES["alertmanager"]["secrets"]}
    receivers = read("alertmanager.yml")["receivers"]
    assert {hook["url_file"] for receiver in receivers for hook in receiver["webhook_configs"]} == secrets
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == (
        f"/run/secrets/{SERVICES['grafana']['secrets'][0]}"
    )
    for name in ("prometheus", "alertmanager"):
        told = dict(one.removeprefix("--").partition("=")[::2] for one in SERVICES[name]["command"])
        kept = {path for option, path in told.items() if option in ("config.file", "storage.tsdb.path", "storage.path")}
        assert len(kept) == 2
        assert {(name, path) for path in kept} <= at


def test_every_receiver_that_is_routed_to_is_there() -> None:
    alertmanager = read("alertmanager.yml")
    named = {receiver["name"] for receiver in alertmanager["receivers"]}
    assert {alertmanager["route"]["receiver"], *(one["receiver"] for one in alertmanager["route"]["routes"])} == named


# Settings and ports


def test_every_setting_is_known_and_taken_as_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = settings(monkeypatch, tmp_path)
    assert config.database.url is None
    assert config.server.tls.client_ca is not None
    inside = {target for name, _, target in mounts() if name == "meterwatch"}
    files = (config.server.tls.certificate, config.server.tls.key, config.server.tls.client_ca)
    for path in (*files, config.client.certificate, config.client.key, config.alarms.routes_file):
        assert path is not None
        assert str(path.parent) in inside, path


def test_a_setting_that_does_not_exist_would_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from meterwatch.errors import ConfigError

    monkeypatch.setenv("METERWATCH_SERVER__HOTS", "0.0.0.0")
    with pytest.raises(ConfigError, match="hots"):
        settings(monkeypatch, tmp_path)


def test_data_is_kept_in_volumes() -> None:
    env = dict(re.findall(r"\b(METERWATCH_\w+)=(\S+)", DOCKERFILE))
    inside = {target for name, _, target in mounts() if name == "meterwatch"}
    assert str(data_dir(env)) in inside
    assert str(cache_dir(env)) not in inside, "of the image"
    for target in ("/var/lib/meterwatch", "/var/backups/meterwatch"):
        assert target in inside
        assert re.search(rf"install -d -o meterwatch [^&\n]*{target}\b", DOCKERFILE), "a new volume gets its owner"


def test_ports_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = settings(monkeypatch, tmp_path)
    prometheus = read("prometheus.yml")
    [job] = prometheus["scrape_configs"]
    assert job["job_name"] == "meterwatch", "the rules say so"
    assert job["static_configs"] == [{"targets": [f"meterwatch:{config.metrics.port}"]}]
    alertmanager = f"alertmanager:{listens('alertmanager')}"
    assert prometheus["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": [alertmanager]}]}]
    [source] = read("grafana-datasource.yaml")["datasources"]
    assert source["url"] == f"http://prometheus:{listens('prometheus')}"
    shown = {name: port for name, (_, _, port) in published().items()}
    assert shown == {
        "meterwatch": config.server.port,
        "prometheus": listens("prometheus"),
        "alertmanager": listens("alertmanager"),
        "grafana": int(SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_PORT"]),
    }
    assert config.metrics.insecure_listen, "Prometheus is another machine"


def test_nothing_is_published_beyond_loopback_unless_it_is_asked_for() -> None:
    assert {host for host, _, _ in published().values()} == {"127.0.0.1"}
    assert [name for name, (_, outer, inner) in published().items() if outer != inner] == []


def test_alarms_go_to_the_alertmanager_by_the_target_of_the_example() -> None:
    routes = read_routes(HERE / "routes" / "routes.yaml")
    assert [target.url for target in routes.targets.values()] == [f"http://alertmanager:{listens('alertmanager')}"]
    example = yaml.safe_load((ROOT / "docs" / "routes.example.yaml").read_text("utf-8"))
    ours, theirs = read("routes/routes.yaml")["targets"]["alertmanager"], example["targets"]["alertmanager"]
    assert ours | {"url": ""} == theirs | {"url": ""}
    assert ours["url"].rpartition(":")[2] == theirs["url"].rpartition(":")[2]


# What runs


def leads(words: list[str]) -> str:
    """The command of the program that these words name; fails if there is none."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert words[0] in commands, words
    commands[words[0]].make_context(words[0], words[1:])
    return words[0]


def test_what_is_started_is_a_command() -> None:
    entry = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, re.MULTILINE)
    assert entry == ["meterwatch"]
    assert leads(OURS["command"]) == "serve"
    assert leads(re.findall(r'^CMD \["(.*)"\]$', DOCKERFILE, re.MULTILINE)) == "serve"
    [started] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    program, *words = started.split()
    assert Path(program).name == "meterwatch"
    assert leads(words) == "serve"


def test_the_image_has_all_packages_and_no_root() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) (?:\S+)$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]["find"]
    assert {name.removesuffix("*") for name in packages["include"]} <= sources
    [user] = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert "0" not in user
    assert f"useradd --uid {user[0]} " in DOCKERFILE
    assert f"chown -R {user[0]}:{user[1]} " in PAGE, "who must be able to read the key"


def test_images_have_a_version_and_no_registry() -> None:
    images = {service["image"] for service in SERVICES.values()} - {"meterwatch"}
    images |= set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    for image in images:
        assert re.fullmatch(r"([a-z0-9]+/)?[a-z0-9]+:[\w.-]*\d[\w.-]*", image), image
    assert len(set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_what_it_needs_and_no_more(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    assert service["mem_limit"]


def test_a_stop_leaves_time_for_what_is_owed() -> None:
    grace_s = int(OURS["stop_grace_period"].removesuffix("s"))
    [unit_s] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert grace_s == int(unit_s) >= 2 * DRAIN_S


def healthcheck(port: int) -> int:
    """Exit status of the container's own health check, of the service on this port."""
    first, program, *arguments = OURS["healthcheck"]["test"]
    assert (first, program) == ("CMD", "python")
    assert not [one for one in arguments if " " in one], "podman takes it apart"
    told = [one.replace(f":{OURS['environment']['METERWATCH_METRICS__PORT']}/", f":{port}/") for one in arguments]
    assert told != arguments
    done = subprocess.run([sys.executable, *told], capture_output=True, timeout=ENOUGH_S, check=False)
    return done.returncode


async def test_healthy_is_who_takes_reads(dsn: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = Config(server=Server(port=0), database=Database(url=SecretStr(dsn)), metrics=Metrics(port=port))
    async with running(config) as service:
        assert await asyncio.to_thread(healthcheck, port) == 0
        service.pipeline.ready("the database is away")
        assert await asyncio.to_thread(healthcheck, port) != 0
        service.pipeline.ready()
    assert await asyncio.to_thread(healthcheck, port) != 0


# What is installed


def test_whatever_is_installed_was_vouched_for_by_a_hash_of_the_lock() -> None:
    scripts = (DOCKERFILE, (ROOT / "tools" / "setup.sh").read_text("utf-8").replace("\\\n", " "), PAGE)
    pattern = r"\bpip(?:_install)? (?:install|download|wheel|--\S)[^&|\n]*"
    found = [
        one for text in scripts for one in re.findall(pattern, text) if "--python" not in one and "--version" not in one
    ]
    assert len(found) >= 8
    assert [one for one in found if "--require-hashes" not in one and "--no-index" not in one] == []


def test_a_command_that_is_given_the_data_is_given_the_programs_of_the_service_too() -> None:
    [unit] = re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE)
    told = [line for line in PAGE.replace("\\\n", " ").splitlines() if "METERWATCH_DATA_DIR=" in line]
    assert told
    assert [line for line in told if not set(unit.split()) <= set(line.split())] == []


# The system unit


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    program = Path(sys.executable).with_name("meterwatch")
    (tmp_path / "meterwatch.service").write_text(UNIT.replace("/opt/meterwatch/bin/meterwatch", str(program)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "meterwatch.service")],
        capture_output=True,
        text=True,
        timeout=ENOUGH_S,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "meterwatch" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_the_unit_closes_what_the_service_does_not_need(tmp_path: Path) -> None:
    _, _, service = UNIT.partition("[Service]")
    told = dict(line.split("=", 1) for line in service.splitlines() if re.match(r"\w+=", line))
    assert told["CapabilityBoundingSet"] == ""
    assert (told["SystemCallFilter"], told["UMask"], told["NoNewPrivileges"]) == ("@system-service", "0077", "yes")
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    (tmp_path / "meterwatch.service").write_text(UNIT)
    command = [
        analyze,
        "security",
        "--offline=true",
        "--threshold=20",
        "--no-pager",
        str(tmp_path / "meterwatch.service"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ENOUGH_S, check=False)
    if "offline" in done.stderr:
        pytest.skip("this systemd-analyze is older than 250 and judges only what runs")
    assert done.returncode == 0, done.stdout[-300:]


def test_systemd_never_gives_up_a_service_whose_database_is_away() -> None:
    unit, _, service = UNIT.partition("[Service]")
    assert "\nStartLimitIntervalSec=0\n" in unit
    assert "\nRestart=always\n" in service


def test_settings_the_unit_names_exist() -> None:
    for name in re.findall(r"METERWATCH_(\w+?)__(\w+)", UNIT):
        section, key = (part.lower() for part in name)
        model: Any = Config.model_fields[section].annotation
        for part in key.split("__"):
            assert part in model.model_fields, name
            model = model.model_fields[part].annotation
