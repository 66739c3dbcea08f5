"""The routes file: what is sound, every problem with its line, hours, and who would be told."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routes_world import NOW_US, US, alarm, simple

from alarm.routes import letter
from alarm.routes.file import BYTES_MAX, parse_routes, read_routes
from alarm.routes.hours import Hours, span_of
from alarm.routes.rehearse import rehearse
from meterwatch.alarms import AlarmState
from meterwatch.episodes import Severity
from meterwatch.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SOUND = """version: 1
targets:
  am: {kind: alertmanager, url: "http://127.0.0.1:9093"}
  hook:
    kind: webhook
    url: http://127.0.0.1:1/in
    secret: {env: HOME}
departments:
  noc: {targets: [am, hook]}
schedules:
  office: {time_zone: Europe/Berlin, hours: ["mon-fri 07:00-17:00"], holidays: [2026-12-25]}
routes:
  - name: a
    match: {type: [OUTAGE], district: [North], severity_min: HIGH}
    department: noc
    schedule: office
    escalate: [{after_s: 60, department: noc}]
"""


def problems(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ConfigError) as raised:
        parse_routes(data, "f.yaml", Path())
    return raised.value.problems


def test_a_sound_file_says_what_it_says() -> None:
    found = parse_routes(SOUND.encode(), "f.yaml", Path())
    (route,) = found.routes
    assert (route.department, route.match.severity_min) == ("noc", Severity.HIGH)
    assert found.departments["noc"].targets == ("am", "hook")
    assert found == parse_routes(SOUND.encode(), "f.yaml", Path())


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("alertmanager,", "alertmaneger,", 3, "'alertmaneger'"),
        ("url: http", "ulr: http", 6, "did you mean 'url'"),
        ("[am, hook]", "[amm, hook]", 9, "did you mean 'am'"),
        ("[am, hook]", "[]", 9, "at least 1"),
        ("Europe/Berlin", "Europe/Berlni", 11, "no time zone"),
        ("07:00", "7:00", 11, "no span of hours"),
        ("2026-12-25", "2026-13-25", 11, "no value"),
        ("HIGH", "High", 14, "'High'"),
        ("[North]", "[NO]", 14, "put it in quotes"),
        ("department: noc\n", "department: nco\n", 15, "no department 'nco'; did you mean 'noc'"),
        ("schedule: office", "schedule: ofice", 16, "no schedule"),
        ("after_s: 60", "after_s: 0", 17, "greater than"),
        ("    secret: {env: HOME}\n", "", 4, "secret is missing"),
        ("{env: HOME}", "{env: NOT_SET_HERE}", 7, "NOT_SET_HERE is not set"),
        ("{env: HOME}", "{file: not/there}", 7, "cannot be read"),
        ("{env: HOME}", "{}", 7, "either env"),
        ("http://127.0.0.1:1/in", "http://user:pass@host/", 6, "user, password"),
        ("http://127.0.0.1:1/in", "file:///etc/passwd", 6, "no address"),
        ("version: 1", "version: 2", 1, "version"),
        ("  - name: a\n", "  - name: a\n    name: b\n", 14, "second time"),
        ("kind: webhook", "kind: apprise", 6, "apprise"),
    ],
)
def test_a_problem_is_told_with_its_line(old: str, new: str, line: int, says: str) -> None:
    assert old in SOUND
    found = problems(SOUND.replace(old, new, 1))
    assert any(p.startswith(f"f.yaml:{line}: ") and says in p for p in found), found


LABELLED = """[North], labels: {department: [grid, noc], network: [lv]}"""


def test_labels_of_user_rules_choose_alarms_and_make_groups() -> None:
    grouped = "schedule: office\n    group_by: [district, labels.network]"
    sound = SOUND.replace("[North]", LABELLED).replace("schedule: office", grouped)
    [route] = parse_routes(sound.encode(), "f.yaml", Path()).routes
    for labels, wanted in (
        ({"department": "noc", "network": "lv"}, True),
        ({"department": "noc", "network": "mv"}, False),
        ({"network": "lv"}, False),
        ({}, False),
    ):
        assert route.match.matches(alarm(evidence={"labels": labels})) is wanted
    assert "labels.network=lv" in route.group_of(alarm(evidence={"labels": {"network": "lv"}}))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("department: [", "severity: [", "match severity_min"),
        ("network: [", "Network: [", "no label"),
        ("[lv]", "[]", "at least 1"),
        ("[lv]", "lv", "list"),
    ],
)
def test_a_label_that_is_none_is_refused(old: str, new: str, says: str) -> None:
    found = problems(SOUND.replace("[North]", LABELLED).replace(old, new, 1))
    assert any(p.startswith("f.yaml:14: ") and says in p for p in found), found


def test_a_department_also_has_what_a_label_says_is_its_own() -> None:
    found = simple("match: {type: [OUTAGE]}", departments="lone: {targets: [hook]}")
    mine = alarm(rule="USER/hot", evidence={"labels": {"department": "lone"}})
    assert found.concerns("lone").matches(mine)
    assert not found.concerns("noc").matches(mine)


def test_all_problems_are_told_at_once() -> None:
    bad = SOUND.replace("alertmanager,", "x,").replace("HIGH", "High").replace("after_s: 60", "after_s: 0")
    assert len(problems(bad)) == 3


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "7", "a: [", b"\xff", "a: &x [1]\nb: *x", "? [1]\n: 2", "\0", "{" * 5000, "!!python/name:os.system x"],
)
def test_what_is_no_routes_file_is_one_sentence_and_never_runs(text: str | bytes) -> None:
    assert problems(text)


def test_levels_are_counted_before_they_are_read() -> None:
    for text in ("{" * 1_000_000, "[" * 21 + "]" * 21, "a:\n" + "".join(f"{' ' * n}- \n" for n in range(25))):
        assert problems(text) == ["f.yaml: no YAML: more than 20 levels in each other; correct it."]


def test_an_address_or_secret_is_in_no_problem() -> None:
    found = problems(SOUND.replace("http://127.0.0.1:1/in", "http://user:tops3cret@host/").replace("HIGH", "x"))
    assert not any("tops3cret" in problem for problem in found)


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("#" * (BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger"):
        read_routes(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_routes(tmp_path / "none.yaml")


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_routes(text.encode("utf-8", "surrogatepass"), "f", Path())


def test_the_example_is_sound_but_for_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCH_SECRET", "x")
    monkeypatch.setenv("ON_CALL_URL", "json://127.0.0.1")
    data = (ROOT / "docs" / "routes.example.yaml").read_bytes()
    if find_spec("apprise") is None:
        data = data.replace(b"kind: apprise", b"kind: alertmanager").replace(b"alarms_max: 5", b"")
        monkeypatch.setenv("ON_CALL_URL", "http://127.0.0.1")
    assert len(parse_routes(data, "example", Path()).routes) == 2


def test_every_key_is_in_the_page_of_the_routes() -> None:
    from alarm.routes import file

    page = (ROOT / "docs" / "routes.md").read_text()
    models = (file._File, file._Target, file._Rate, file._Schedule, file._Match, file._Route, file._Escalation)
    keys = {name for model in models for name in model.model_fields}
    assert keys <= set(re.findall(r"[a-z_]+", page))


def test_the_check_of_a_message_in_the_page_accepts_ours_and_no_other() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "routes.md").read_text(), re.DOTALL)
    there: dict[str, Any] = {}
    exec(snippet, there)
    now_s = int(datetime.now(UTC).timestamp())
    for secret in ("plain", "whsec_c2VjcmV0"):
        headers = {"webhook-id": "log/1", "webhook-timestamp": str(now_s)}
        headers["webhook-signature"] = letter.signature(secret, "log/1", now_s, b"{}")
        assert there["genuine"](secret, headers, b"{}")
        assert not there["genuine"](secret, headers, b"{ }")
        assert not there["genuine"]("other", headers, b"{}")
        assert not there["genuine"](secret, headers | {"webhook-timestamp": str(now_s - 900)}, b"{}")


def test_the_department_of_an_alarm_follows_from_the_routes_whatever_its_state() -> None:
    found = simple(
        "match: {district: [North], severity_min: HIGH, state: [UNACK_ACTIVE]}", departments="lone: {targets: [hook]}"
    )
    for one, wanted in (
        (alarm(), True),
        (alarm(state=AlarmState.NORMAL), True),
        (alarm(district="South"), False),
        (alarm(severity=Severity.LOW), False),
    ):
        assert found.concerns("noc").matches(one) is wanted
        assert not found.concerns("lone").matches(one)


def test_a_rehearsal_shows_everybody_in_the_order_they_would_be_told() -> None:
    found = simple(
        "escalate: [{after_s: 600, department: boss}]",
        targets='sms: {kind: alertmanager, url: "http://127.0.0.1:9"}',
        departments="boss: {targets: [sms, hook]}",
    )
    told = rehearse(found, alarm(), NOW_US)
    assert [(one.at_us - NOW_US, one.target, one.department) for one in told] == [
        (10 * US, "hook", "noc"),
        (610 * US, "sms", "boss"),
    ]
    assert rehearse(found, alarm(state=AlarmState.NORMAL), NOW_US) == []


# Hours


BERLIN = Hours(ZoneInfo("Europe/Berlin"), (span_of("mon-fri 07:00-17:00"), span_of("sat,sun 22:00-06:00")))


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1e6)


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-27T06:59:59+01:00", "2026-11-27T07:00:00+01:00"),
        ("2026-11-27T07:00:00+01:00", "2026-11-27T07:00:00+01:00"),
        ("2026-11-27T17:00:00+01:00", "2026-11-28T22:00:00+01:00"),
        ("2026-11-29T05:59:59+01:00", "2026-11-29T05:59:59+01:00"),
        ("2026-11-30T05:00:00+01:00", "2026-11-30T05:00:00+01:00"),
        ("2026-03-29T01:30:00+01:00", "2026-03-29T01:30:00+01:00"),
        ("2026-03-29T03:30:00+02:00", "2026-03-29T03:30:00+02:00"),
        ("2026-03-29T07:30:00+02:00", "2026-03-29T22:00:00+02:00"),
    ],
)
def test_hours_are_those_of_the_wall_clock_there(now: str, opens: str) -> None:
    assert BERLIN.next_open_us(us(now)) == us(opens)
    assert BERLIN.open_at(us(now)) is (now == opens)


def test_on_a_holiday_no_hours_begin() -> None:
    hours = Hours(BERLIN.zone, BERLIN.spans, frozenset({datetime(2026, 12, 25).date()}))  # noqa: DTZ001 (a day)
    assert hours.next_open_us(us("2026-12-24T18:00:00+01:00")) == us("2026-12-26T22:00:00+01:00")


@given(
    st.integers(0, 400 * 24 * 60), st.sampled_from(["mon-fri 07:00-17:00", "sat 22:00-06:00", "sun-tue 00:00-24:00"])
)
def test_hours_are_those_of_a_minute_by_minute_look(minute: int, text: str) -> None:
    """In UTC, where a day is a day; the oracle knows only weekday and minute."""
    span = span_of(text)
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    within = any(
        (now - timedelta(days=back)).weekday() in span.days
        and span.from_min <= now.hour * 60 + now.minute + back * 1440 < span.to_min
        for back in (0, 1)
    )
    assert Hours(ZoneInfo("UTC"), (span,)).open_at(int(now.timestamp()) * US) is within
