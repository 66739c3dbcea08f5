"""The configuration: one TOML file, the environment on top, defaults that run on a laptop.

File: the path given, or METERWATCH_CONFIG, or meterwatch.toml in the working directory, or none. Environment:
METERWATCH_SECTION__KEY, e.g. METERWATCH_SERVER__PORT; it wins over the file. Promises: an unknown key is an error with
the nearest known one; all problems are reported together, before a socket opens; a secret never shows. Refuses to be
global: whoever needs a value is given it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from meterwatch.config_checks import CROSS_CHECKS, profile_problems
from meterwatch.errors import ConfigError
from meterwatch.texts import visible
from meterwatch.transport.settings import Client, Tls

FILE_NAME: Final = "meterwatch.toml"
FILE_VARIABLE: Final = "METERWATCH_CONFIG"
PREFIX: Final = "METERWATCH_"

_SECTION = ConfigDict(extra="forbid", frozen=True)


class Server(BaseModel):
    """The gRPC service and the limits of its streams."""

    model_config = _SECTION
    host: str = "127.0.0.1"
    port: int = Field(default=50551, ge=0, le=65535)
    """0: any free port."""
    insecure_listen: bool = False
    """Allow a host other than loopback without TLS; the service speaks plain text and asks nobody who they are."""
    tls: Tls = Tls()
    credits: int = Field(default=8, ge=1, le=1000)
    """Unanswered batches a head-end may have on a stream."""
    batch_rows_max: int = Field(default=65_000, ge=1, le=65_000)
    message_bytes_max: int = Field(default=4_194_304, ge=65_536, le=67_108_864)
    dictionary_entries_max: int = Field(default=1_048_576, ge=1, le=16_777_216)
    streams_max: int = Field(default=64, ge=1, le=10_000)
    head_end_streams_max: int = Field(default=32, ge=1, le=10_000)
    """Of them of one head-end."""
    subscribers_max: int = Field(default=256, ge=1, le=100_000)
    """Subscribers to alarms at a time."""
    identity_subscribers_max: int = Field(default=32, ge=1, le=100_000)
    """Of them of one identity, where identities are known."""
    calls_max: int = Field(default=64, ge=1, le=10_000)
    """Calls of people under way at a time."""
    identity_calls_max: int = Field(default=6, ge=1, le=10_000)
    """Of them of one identity, where identities are known: fewer than the database's pool has connections."""
    idle_timeout_s: float = Field(default=60, gt=0, le=3600)
    batch_deadline_s: float = Field(default=30, gt=0, le=600)


class Database(BaseModel):
    """Where the reads live. url: an existing TimescaleDB; without it the embedded one.

    data_dir: of the embedded one; None: the place storage.embedded.data_dir() names.
    columnstore: storage.layout says what each value comes to.
    """

    model_config = _SECTION
    url: SecretStr | None = None
    data_dir: Path | None = None
    disk_free_min_mib: int = Field(default=1024, ge=0)
    """With less free for the embedded one no reads are taken; 0: however little is free."""
    copy_connections: int = Field(default=2, ge=1, le=64)
    columnstore: Literal["auto", "on", "off"] = "auto"
    insecure_network: bool = False
    """Allow a url to another machine that does not demand TLS."""


class Retention(BaseModel):
    """Days each kind of row is kept after its time; None: for ever.

    Whatever is set, nothing younger than the longest late window of a head-end is dropped.
    """

    model_config = _SECTION
    reads_days: int | None = Field(default=None, ge=1)
    """Reads and their older versions."""
    events_days: int | None = Field(default=None, ge=1)
    loads_days: int | None = Field(default=None, ge=3)
    """The load of every transformer by quarter-hour; a start needs the last two days."""
    meter_days: int | None = Field(default=None, ge=30)
    """Meters by local day: energy, peak, findings; V15 needs the last four weeks."""
    quarantine_days: int | None = Field(default=365, ge=1)
    ledger_days: int | None = Field(default=60, ge=1)
    """The batch ledger: how long a batch sent again gets its old answer. Later its reads count as duplicates."""
    alarms_days: int | None = Field(default=None, ge=1)
    """Ended alarms with their log and the operators' actions."""


class ClockSection(BaseModel):
    """Which clock the service lives by (meterwatch.clock)."""

    model_config = _SECTION
    mode: Literal["real", "simulated", "replay"] = "real"
    start: AwareDatetime | None = None
    speed: float = Field(default=1.0, gt=0, le=100_000)

    @property
    def start_us(self) -> int | None:
        """Start, UTC microseconds since 1970."""
        return None if self.start is None else round(self.start.timestamp() * 1_000_000)


class Rules(BaseModel):
    """Which set of thresholds the rules use, and which rules there are besides."""

    model_config = _SECTION
    profile: str = "default"
    profiles_file: Path | None = None
    """Of profiles beside the shipped ones, of rules and of alarms (docs/rules.md); None: there are none."""
    files: list[str] = []
    """Of user rules: files, directories or shipped:NAME (docs/user-rules.md)."""


class Checks(BaseModel):
    """Which set of thresholds validation uses, and what takes its place for intervals that end after a moment."""

    model_config = _SECTION
    profile: str = "default"
    changes: dict[AwareDatetime, str] = {}


class Alarms(BaseModel):
    """How alarms are presented, and to whom beside subscribers."""

    model_config = _SECTION
    profile: str = "default"
    operators: int = Field(default=1, ge=1, le=1000)
    """Who share them, for the metrics of floods."""
    routes_file: Path | None = None
    """Which departments are told of which alarms, and how (docs/routes.md); None: nobody is."""


class Access(BaseModel):
    """Who may call, beside the certificates that TLS asks for (docs/access.md)."""

    model_config = _SECTION
    jwks_file: Path | None = None
    """Public keys that tokens of people are signed with; from a file, or else from jwks_url."""
    jwks_url: str | None = None
    issuer: str = ""
    """`iss` of the tokens."""
    audience: str = ""
    """`aud` of the tokens: this service."""
    denied_serials_file: Path | None = None
    """Serial numbers of certificates that are let in no more; read again when it changes."""

    @property
    def tokens(self) -> bool:
        """True: tokens are taken."""
        return self.jwks_file is not None or self.jwks_url is not None


class Estimation(BaseModel):
    """When missing reads are estimated."""

    model_config = _SECTION
    automatic: bool = True
    """Each local day once it is judged, and again when it should come out otherwise; else on demand only."""
    after_hours: float = Field(default=0, ge=0, le=1000)
    """Hours after the end of the day, for reads that are polled again."""


class ForecastSection(BaseModel):
    """Forecasts of transformers."""

    model_config = _SECTION
    automatic: bool = True
    """Every hour, of every transformer with enough days of loads."""


class Metrics(BaseModel):
    """Prometheus endpoint on the loopback address; port 0: off."""

    model_config = _SECTION
    port: int = Field(default=0, ge=0, le=65535)
    insecure_listen: bool = False
    """Answer on every address: plain HTTP, to whoever reaches it."""


class Log(BaseModel):
    """What is logged and how."""

    model_config = _SECTION
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Config(BaseModel):
    """Everything that can be set. Making one by hand reads neither file nor environment and skips the cross checks."""

    model_config = _SECTION
    server: Server = Server()
    database: Database = Database()
    retention: Retention = Retention()
    clock: ClockSection = ClockSection()
    rules: Rules = Rules()
    checks: Checks = Checks()
    alarms: Alarms = Alarms()
    access: Access = Access()
    estimation: Estimation = Estimation()
    forecast: ForecastSection = ForecastSection()
    metrics: Metrics = Metrics()
    client: Client = Client()
    log: Log = Log()


class _Environment(BaseSettings, Config):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore")


def config_path(path: Path | None = None) -> Path | None:
    """Return the file load_config(path) reads, or None if there is none."""
    if path is not None:
        return path
    if named := os.environ.get(FILE_VARIABLE):
        return Path(named)
    default = Path(FILE_NAME)
    return default if default.exists() else None


def load_config(path: Path | None = None) -> Config:
    """Read file and environment; raise ConfigError with every problem found."""
    problems: list[str] = []
    data = _merged(_file(config_path(path), problems), _environment(problems))
    bad: set[str] = set()
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        for finding in error.errors(include_url=False):
            problems.append(_sentence(finding))
            bad.add(".".join(str(part) for part in finding["loc"][:2]))
            _drop(data, [str(part) for part in finding["loc"][:2]])
        config = Config.model_validate(data)  # what is left is sound; a dropped key shows its default
    for check in CROSS_CHECKS:
        if not any(key in bad or key.split(".")[0] in bad for key in check.keys):
            sentence = check.problem(config)
            if sentence:
                problems.append(sentence)
    if not bad & {"rules", "rules.profile", "rules.profiles_file", "alarms", "alarms.profile"}:
        problems += profile_problems(config)
    if problems:
        raise ConfigError([visible(problem) for problem in problems])
    return config


def _file(path: Path | None, problems: list[str]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror}); give the path of a TOML file.")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not TOML: {error}.")
    return {}


def _environment(problems: list[str]) -> dict[str, Any]:
    for name in sorted(os.environ):
        section, delimiter, _ = name.upper().removeprefix(PREFIX).partition("__")
        if name.upper().startswith(PREFIX) and delimiter and section.lower() not in Config.model_fields:
            near = _near(section.lower(), list(Config.model_fields))
            problems.append(f"The environment variable {name} names no section{near}.")
    try:
        values: dict[str, Any] = EnvSettingsSource(_Environment)()
    except SettingsError as error:
        problems.append(f"The environment cannot be read: {error}; write {PREFIX}SECTION__KEY=value, one per key.")
        return {}
    return values


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(low)
    for key, value in high.items():
        below = out.get(key)
        nested = isinstance(below, dict) or below is None
        out[key] = _merged(below or {}, value) if nested and isinstance(value, dict) else value
    return out


def _drop(data: dict[str, Any], keys: list[str]) -> None:
    *sections, last = keys
    for section in sections:
        data = data.get(section, {})
    data.pop(last, None)


def _near(key: str, known: list[str]) -> str:
    found = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'" if found else f"; known are {', '.join(known)}"


def _sentence(finding: Any) -> str:
    loc = [str(part) for part in finding["loc"]]
    name = ".".join(loc)
    if finding["type"] == "extra_forbidden":
        return f"{name} is not a known key{_near(loc[-1], _known(loc[:-1]))}."
    got = "" if _secret(loc) else f" = {finding['input']!r}"
    expected = str(finding["msg"]).removeprefix("Input should ")
    return f"{name}{got}: should {expected}." if expected != finding["msg"] else f"{name}{got}: {expected}."


def _known(sections: list[str]) -> list[str]:
    model = _model(sections)
    return [] if model is None else list(model.model_fields)


def _model(sections: list[str]) -> type[BaseModel] | None:
    """The class of a section; None: there is none of that name."""
    model: type[BaseModel] = Config
    for section in sections:
        field = model.model_fields.get(section)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        model = kind
    return model


def _secret(loc: list[str]) -> bool:
    """True if what stands there, or in a section there, must not be shown."""
    model = _model(loc)
    if model is not None:
        return any(_secret([*loc, key]) for key in model.model_fields)
    above = _model(loc[:-1])
    field = above.model_fields.get(loc[-1]) if above else None
    return field is not None and "SecretStr" in str(field.annotation)
