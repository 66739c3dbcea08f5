"""The routes file: YAML in, sound routes out, or every problem at once with its line.

Promise: a file with one problem gives no routes at all. Secrets come from the environment or from files of their own
and are read with the routes file; no message shows one. Refused besides what is wrong: unknown keys, keys given twice,
YAML anchors (a file of a few lines may become gigabytes), files larger than BYTES_MAX.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from alarm.routes.apprised import apprise_problem
from alarm.routes.hours import Hours, span_of
from alarm.routes.model import GROUP_FIELDS, LABEL_FIELD, Department, Escalation, Route, Routes, Target, TargetKind
from meterwatch.alarms import AlarmFilter, AlarmState, AlarmType, Priority, names_a_type
from meterwatch.episodes import Severity
from meterwatch.errors import ConfigError
from meterwatch.texts import visible

BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 20
SECRET_BYTES_MAX: Final = 4096
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LABEL: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""As in a file of user rules."""
_US: Final = 1_000_000
_STRICT: Final = ConfigDict(extra="forbid", frozen=True)

Loc = tuple[str | int, ...]
Problem = tuple[Loc, str]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; give one such as Europe/Berlin") from None
    return name


def _hours(text: str) -> str:
    span_of(text)
    return text


def _type(name: str) -> str:
    if not names_a_type(name):
        raise ValueError(f"{name!r} is no type of alarm; expected {', '.join(AlarmType)} or USER/NAME")
    return name


def _field(name: str) -> str:
    label = name.removeprefix(LABEL_FIELD) if name.startswith(LABEL_FIELD) else ""
    if name not in GROUP_FIELDS and not LABEL.fullmatch(label):
        raise ValueError(
            f"{name!r} cannot be grouped by; expected {', '.join(GROUP_FIELDS)} or {LABEL_FIELD}NAME of a user rule"
        )
    return name


def _label(name: str) -> str:
    if name == "severity":
        raise ValueError("'severity' is no label of an alarm; match severity_min")
    if not LABEL.fullmatch(name):
        raise ValueError(f"{name!r} is no label; expected small letters, digits and _, a letter first")
    return name


SeverityName = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]
Seconds = Annotated[int, Field(ge=0, le=30 * 86_400)]
Texts = Annotated[list[str], Field(min_length=1, max_length=1000)]


class _Secret(BaseModel):
    model_config = _STRICT
    env: str | None = None
    file: Path | None = None


class _Rate(BaseModel):
    model_config = _STRICT
    messages: int = Field(default=60, ge=1, le=10_000)
    per_s: int = Field(default=60, ge=1, le=86_400)


class _Target(BaseModel):
    model_config = _STRICT
    kind: TargetKind
    url: str | _Secret
    secret: _Secret | None = None
    bearer: _Secret | None = None
    timeout_s: float = Field(default=10, ge=0.05, le=120)
    rate: _Rate = _Rate()
    alarms_max: int = Field(default=50, ge=1, le=1000)
    give_up_s: int = Field(default=86_400, ge=60, le=30 * 86_400)
    resend_s: int = Field(default=60, ge=5, le=3600)


class _Department(BaseModel):
    model_config = _STRICT
    targets: Texts


class _Schedule(BaseModel):
    model_config = _STRICT
    time_zone: Annotated[str, AfterValidator(_zone)]
    hours: list[Annotated[str, AfterValidator(_hours)]] = Field(min_length=1, max_length=50)
    holidays: list[date] = Field(default=[], max_length=1000)


class _Match(BaseModel):
    model_config = _STRICT
    type: list[Annotated[str, AfterValidator(_type)]] = []
    district: list[str] = Field(default=[], max_length=1000)
    feeder: list[str] = Field(default=[], max_length=1000)
    labels: dict[Annotated[str, AfterValidator(_label)], Texts] = Field(default={}, max_length=20)
    severity_min: SeverityName = "LOW"
    priority_min: SeverityName = "LOW"
    state: list[AlarmState] = []


class _Escalation(BaseModel):
    model_config = _STRICT
    after_s: int = Field(ge=1, le=30 * 86_400)
    department: str


class _Route(BaseModel):
    model_config = _STRICT
    name: str
    match: _Match = _Match()
    department: str
    schedule: str | None = None
    outside: Literal["hold", "skip"] = "hold"
    group_by: list[Annotated[str, AfterValidator(_field)]] = []
    group_wait_s: Seconds = 10
    group_interval_s: Seconds = 60
    repeat_s: int | None = Field(default=None, ge=60, le=30 * 86_400)
    escalate: list[_Escalation] = Field(default=[], max_length=10)


class _File(BaseModel):
    model_config = _STRICT
    version: Literal[1]
    link: str = ""
    targets: dict[str, _Target] = Field(max_length=200)
    departments: dict[str, _Department] = Field(max_length=500)
    schedules: dict[str, _Schedule] = Field(default={}, max_length=100)
    routes: list[_Route] = Field(min_length=1, max_length=500)

    @field_validator("link")
    @classmethod
    def _is_link(cls, link: str) -> str:
        if link and urlsplit(link).scheme not in ("http", "https"):
            raise ValueError(f"{link!r} is no link; give an http or https address")
        return link


def read_routes(path: Path) -> Routes:
    """The routes of a file. ConfigError with every problem, each with file and line."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError([f"{path} cannot be read ({error.strerror}); give the path of a routes file."]) from None
    if len(data) > BYTES_MAX:
        raise ConfigError([f"{path} is larger than {BYTES_MAX} bytes; leave out what no route needs."])
    return parse_routes(data, str(path), path.parent)


def parse_routes(data: bytes, name: str, directory: Path) -> Routes:
    """As read_routes, of bytes; files of secrets are looked for from `directory`."""
    try:
        tree, lines, problems = _loaded(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError([f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8."]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError([f"{at}: no YAML: {error.problem}; correct it."]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}: no YAML: {str(error).splitlines()[0]}; correct it."]) from None
    except RecursionError:
        raise ConfigError([f"{name}: nested too deeply; see docs/routes.md for the form of a routes file."]) from None
    try:
        file = _File.model_validate(tree)
    except ValidationError as error:
        problems += [_sentence(finding) for finding in error.errors(include_url=False)]
        file = None
    if file is not None:
        problems += _cross_problems(file)
        routes = _built(file, directory, problems)
        if not problems:
            return routes
    found = sorted(problems, key=_in(lines))
    raise ConfigError([visible(f"{name}:{_line(lines, loc)}: {text}") for loc, text in found])


def _loaded(text: str) -> tuple[Any, dict[Loc, int], list[Problem]]:
    """Plain values, the line of each, keys given twice. ConfigError-worthy YAML raises yaml.YAMLError."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not used here")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:  # the parser's own work grows with the square of it
            raise yaml.YAMLError(f"more than {DEPTH_MAX} levels in each other")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Loc, int] = {}
        problems: list[Problem] = []
        value = None if node is None else _value(loader, node, (), lines, problems)
        return value, lines, problems
    finally:
        loader.dispose()


def _value(loader: yaml.SafeLoader, node: yaml.Node, loc: Loc, lines: dict[Loc, int], problems: list[Problem]) -> Any:
    lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, part, (*loc, i), lines, problems) for i, part in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node, deep=True)
        except ValueError as error:  # such as a 30th of February
            problems.append((loc, f"{_dotted(loc)} = {node.value!r:.80} is no value: {error}."))
            return node.value
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        at = (*loc, key)
        if key in found:
            lines[*at, 0] = key_node.start_mark.line + 1
            problems.append(((*at, 0), f"{_dotted(at)} is given a second time; keep one."))
            continue
        lines[at] = key_node.start_mark.line + 1
        found[key] = _value(loader, value_node, at, lines, problems)
    return found


def _line(lines: dict[Loc, int], loc: Loc) -> int:
    """Of the innermost part that is in the file."""
    while loc and loc not in lines:
        loc = loc[:-1]
    return lines.get(loc, 1)


def _in(lines: dict[Loc, int]) -> Any:
    return lambda problem: (_line(lines, problem[0]), problem[1])


def _dotted(loc: Iterable[str | int]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def _sentence(finding: Any) -> Problem:
    loc: Loc = tuple(part for part in finding["loc"] if part not in ("_Secret", "str"))
    name = _dotted(loc)
    message = str(finding["msg"]).removeprefix("Value error, ").removeprefix("Input should ")
    if finding["type"] == "extra_forbidden":
        return loc, f"{name} is not a known key{_near(str(loc[-1]), _known(loc))}."
    if finding["type"] == "missing":
        return loc, f"{name} is missing; give it."
    if finding["type"] == "value_error":
        return loc, f"{name}: {message}."
    got = "" if {"url", "secret", "bearer"} & set(loc) else f" = {finding['input']!r:.80}"
    quoted = "; put it in quotes" if finding["type"] == "string_type" and not got.endswith(("]", "}")) else ""
    return loc, f"{name}{got}: should {message[:1].lower()}{message[1:]}{quoted}."


def _known(loc: Loc) -> list[str]:
    """Keys known beside an unknown one."""
    models: dict[str | int, type[BaseModel]] = {
        "targets": _Target, "departments": _Department, "schedules": _Schedule, "routes": _Route, "rate": _Rate,
        "match": _Match, "escalate": _Escalation, "url": _Secret, "secret": _Secret, "bearer": _Secret,
    }  # fmt: skip
    inner = [models[part] for part in loc[:-1] if part in models]
    return list((inner[-1] if inner else _File).model_fields)


def _near(key: str, known: Iterable[str]) -> str:
    known = list(known)
    found = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}" if found else f"; known are {', '.join(known) or 'none'}"


def _cross_problems(file: _File) -> Iterator[Problem]:
    """Names that refer to nothing, are used twice, or cannot be a name."""
    for section in ("targets", "departments", "schedules"):
        for name in getattr(file, section):
            if not NAME.fullmatch(name):
                yield (section, name), f"{name!r:.80} is no name; use up to 64 of A-Z, a-z, 0-9, '.', '_' and '-'."
    for name, department in file.departments.items():
        for i, target in enumerate(department.targets):
            if target not in file.targets:
                loc: Loc = ("departments", name, "targets", i)
                yield loc, f"there is no target {target!r:.80}{_near(target, file.targets)}."
    seen: set[str] = set()
    for i, route in enumerate(file.routes):
        at: Loc = ("routes", i)
        if not NAME.fullmatch(route.name):
            yield (*at, "name"), f"{route.name!r:.80} is no name; use up to 64 of A-Z, a-z, 0-9, '.', '_' and '-'."
        if route.name in seen:
            yield (*at, "name"), f"there is a route {route.name!r} before this one; give each a name of its own."
        seen.add(route.name)
        named: list[tuple[Loc, str]] = [((*at, "department"), route.department)]
        named += [((*at, "escalate", n, "department"), e.department) for n, e in enumerate(route.escalate)]
        for loc, department_name in named:
            if department_name not in file.departments:
                yield loc, f"there is no department {department_name!r:.80}{_near(department_name, file.departments)}."
        if route.schedule is not None and route.schedule not in file.schedules:
            near = _near(route.schedule, file.schedules)
            yield (*at, "schedule"), f"there is no schedule {route.schedule!r:.80}{near}."
        if route.schedule is None and route.outside == "skip":
            yield (*at, "outside"), "outside has a meaning only with a schedule; give one, or remove it."
        after = [e.after_s for e in route.escalate]
        if after != sorted(set(after)):
            yield (*at, "escalate"), f"after_s are {after}; each must be later than the one before."


def _built(file: _File, directory: Path, problems: list[Problem]) -> Routes:
    """The routes; what cannot be built is added to the problems."""
    targets = {name: _target(name, target, directory, problems) for name, target in file.targets.items()}
    hours = {
        name: Hours(ZoneInfo(s.time_zone), tuple(map(span_of, s.hours)), frozenset(s.holidays))
        for name, s in file.schedules.items()
    }
    routes = tuple(
        Route(
            name=route.name,
            match=_filter(route.match),
            department=route.department,
            hours=hours.get(route.schedule or ""),
            outside=route.outside,
            group_by=tuple(route.group_by),
            group_wait_us=route.group_wait_s * _US,
            group_interval_us=route.group_interval_s * _US,
            repeat_us=None if route.repeat_s is None else route.repeat_s * _US,
            escalations=tuple(Escalation(e.after_s * _US, e.department) for e in route.escalate),
        )
        for route in file.routes
    )
    departments = {
        name: Department(name, tuple(dict.fromkeys(department.targets)))
        for name, department in file.departments.items()
    }
    return Routes(targets, departments, routes, file.link)


def _filter(match: _Match) -> AlarmFilter:
    return AlarmFilter(
        rules=frozenset(str(kind) for kind in match.type),
        districts=frozenset(match.district),
        feeders=frozenset(match.feeder),
        severity_min=Severity[match.severity_min],
        priority_min=Priority[match.priority_min],
        states=frozenset(match.state),
        labels=tuple((name, frozenset(values)) for name, values in match.labels.items()),
    )


def _target(name: str, target: _Target, directory: Path, problems: list[Problem]) -> Target:
    at = ("targets", name)
    url = target.url if isinstance(target.url, str) else _secret(target.url, (*at, "url"), directory, problems)
    if target.kind == "apprise":
        if (problem := apprise_problem(url)) is not None:
            problems.append(((*at, "url"), problem))
    elif url:
        problems += _url_problems(url, (*at, "url"))
    if target.kind == "webhook" and target.secret is None:
        problems.append((at, f"targets.{name}.secret is missing; a webhook is signed: give secret: {{env: NAME}}."))
    for key in ("secret", "bearer", "resend_s"):
        kinds = {"secret": ("webhook",), "bearer": ("webhook", "alertmanager"), "resend_s": ("alertmanager",)}[key]
        if key in target.model_fields_set and target.kind not in kinds:
            problems.append(((*at, key), f"{key} has a meaning only for {' and '.join(kinds)}; remove it."))
    return Target(
        name=name,
        kind=target.kind,
        url=url,
        secret=_secret(target.secret, (*at, "secret"), directory, problems),
        bearer=_secret(target.bearer, (*at, "bearer"), directory, problems),
        timeout_s=target.timeout_s,
        messages=target.rate.messages,
        per_s=target.rate.per_s,
        alarms_max=target.alarms_max,
        give_up_s=target.give_up_s,
        resend_s=target.resend_s,
    )


def _url_problems(url: str, loc: Loc) -> Iterator[Problem]:
    """Never shows the address: it may hold a token."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        yield loc, "it is no address; expected http://host:port/path or https://..., percent-encoded."
    elif parts.username is not None or parts.fragment:
        yield loc, "it has a user, password or fragment; leave them out and give a token by bearer."


def _secret(given: _Secret | None, loc: Loc, directory: Path, problems: list[Problem]) -> str:
    """The secret itself; empty where none is given or it is not to be had."""
    if given is None:
        return ""
    if (given.env is None) == (given.file is None):
        problems.append((loc, "give either env: NAME or file: PATH."))
        return ""
    if given.env is not None:
        found = os.environ.get(given.env, "")
        if not found.strip():
            problems.append((loc, f"the environment variable {given.env} is not set or empty; set it."))
        return found.strip()
    assert given.file is not None
    path = directory / given.file
    try:
        with path.open("rb") as file:
            found = file.read(SECRET_BYTES_MAX).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append((loc, f"the file {path} cannot be read ({type(error).__name__}); give a readable text file."))
        return ""
    if not found:
        problems.append((loc, f"the file {path} is empty; write the secret into it."))
    return found
