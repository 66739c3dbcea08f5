"""Laws of a file of profiles: what is given changes, all else stays; all that is wrong is told, with its line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from alarm.profile import ATTENDED, AlarmClass
from meterwatch.alarms import Priority
from meterwatch.config import load_config
from meterwatch.episodes import Severity
from meterwatch.errors import ConfigError
from meterwatch.one_call import FORETOLD, LOAD_AND_HEAT
from meterwatch.profile_file import known_profiles
from rules.ladder import Level
from rules.plates import SHIPPED_TYPES, ThermalType
from rules.profile import PROFILES, SEASONAL, RuleProfile
from rules.seasons import AirSeason, Season

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERWATCH_CONFIG", raising=False)
    return tmp_path


def rules(directory: Path, text: str) -> dict[str, RuleProfile]:
    path = directory / "profiles.yaml"
    path.write_text(dedent(text))
    return dict(known_profiles(path).rules)


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        rules(directory, text)
    return [re.sub(r"^.*profiles.yaml:", "", problem) for problem in error.value.problems]


def test_what_is_given_changes_and_all_else_is_inherited(directory: Path) -> None:
    town = rules(
        directory,
        """\
        profiles:
          town:
            inherits: seasonal
            outage: {p_gasp: 0.7}
            overload:
              levels:
                OVERLOAD: {raise_pu: 1.05, hold_s: 3600}
                EMERGENCY_3: none
                WARM: {raise_pu: 0.7, hold_s: 7200, clear_pu: 0.65, clear_s: 1800, severity: low}
        """,
    )["town"]
    heavy, overload, first, second, _ = SEASONAL.overload.levels
    warm = Level("WARM", 0.7, 7200, 0.65, 1800, Severity.LOW)
    levels = (warm, heavy, replace(overload, raise_pu=1.05, hold_s=3600), first, second)
    assert town == replace(
        SEASONAL,
        name="town",
        outage=replace(SEASONAL.outage, p_gasp=0.7),
        overload=replace(SEASONAL.overload, levels=levels),
    )


def test_profiles_inherit_each_other_in_any_order(directory: Path) -> None:
    found = rules(
        directory,
        """\
        profiles:
          b: {inherits: a, silence: {lost_meters_min: 4}}
          a: {silence: {lost_meters_min: 5, grace_s: 1000}}
          c: {inherits: b}
        """,
    )
    assert [found[name].silence.lost_meters_min for name in "abc"] == [5, 4, 4]
    assert found["c"].silence.grace_s == 1000
    assert set(PROFILES) < set(found)


def test_a_season_that_holds_from_a_day_on_leaves_what_is_before(directory: Path) -> None:
    town = rules(
        directory,
        """\
        profiles:
          town:
            overload:
              seasons:
                - {name: winter, begins: 11-01, scale: 1.1}
                - {name: winter, begins: 11-01, scale: 1.2, since: 2027-01-01}
        """,
    )["town"]
    assert town.overload.seasons == (Season("winter", "11-01", 1.1), Season("winter", "11-01", 1.2, "2027-01-01"))


def test_classes_of_alarms_go_before_those_inherited(directory: Path) -> None:
    path = directory / "profiles.yaml"
    path.write_text(
        "alarm_profiles:\n  night:\n    inherits: attended\n    classes:\n"
        "      - {rule: CONTRACT, on_delay_s: 60, priority: {high: low}, severity: {ABOVE: high}}\n"
        "  same: {inherits: attended}\n"
    )
    found = known_profiles(path).alarms
    own = AlarmClass(
        "CONTRACT", on_delay_s=60, priority={Severity.HIGH: Priority.LOW}, severity={"ABOVE": Severity.HIGH}
    )
    assert found["night"].classes == (own, *ATTENDED.classes)
    assert found["same"] == replace(ATTENDED, name="same")


def test_the_types_that_call_once_are_those_given_and_must_be_types(directory: Path) -> None:
    path = directory / "profiles.yaml"
    path.write_text("alarm_profiles:\n  a: {one_call: [HOT_SPOT, OVERLOAD]}\n  b: {one_call: []}\n  c: {}\n")
    found = known_profiles(path).alarms
    assert [found[name].one_call for name in "abc"] == [("HOT_SPOT", "OVERLOAD"), (), LOAD_AND_HEAT]
    [problem] = problems(directory, "alarm_profiles:\n  a:\n    one_call: [OVERLOAD, HOT_SPOTS]\n")
    assert problem.startswith("3: ")
    assert "'HOT_SPOTS'" in problem


def test_the_types_to_plan_with_are_those_given_and_must_be_types(directory: Path) -> None:
    path = directory / "profiles.yaml"
    path.write_text("alarm_profiles:\n  a: {for_planning: [USER/trend]}\n  b: {for_planning: []}\n  c: {}\n")
    found = known_profiles(path).alarms
    assert [found[name].for_planning for name in "abc"] == [("USER/trend",), (), FORETOLD]
    [problem] = problems(directory, "alarm_profiles:\n  a:\n    for_planning: [FORECAST]\n")
    assert problem.startswith("3: ")
    assert "'FORECAST'" in problem


def test_every_problem_of_a_file_is_told_at_once_with_its_line(directory: Path) -> None:
    assert problems(
        directory,
        """\
        profiles:
          town:
            inherits: seasnal
            outage:
              p_gaps: 0.7
              sustained_s: soon
              p_gasp: 1.5
            overload:
              levels:
                OVERLOAD: {raise_pu: 1.05, severity: bad}
                NEW: {raise_pu: 1.4}
                OLD: none
              window_s: 600
          default: {}
          9: {}
        profils: {}
        alarm_profiles:
          night:
            classes:
              - {rule: OVERLAOD}
              - {asset_kind: metre}
        """,
    ) == [
        "3: profiles.town inherits 'seasnal', which is not there; did you mean seasonal?",
        "5: 'p_gaps' is not known in profiles.town.outage; did you mean p_gasp?",
        "6: profiles.town.outage.sustained_s is 'soon'; expected a whole number",
        "7: profiles.town.outage.p_gasp is 1.5; expected at most 1",
        "10: profiles.town.overload.levels.OVERLOAD.severity is 'bad'; expected low, medium, high, critical",
        "11: profiles.town.overload.levels.NEW lacks hold_s, clear_pu, clear_s, severity; a new entry "
        "gives all of them",
        "12: profiles.town.overload.levels has no 'OLD' to leave out; there are HEAVY, OVERLOAD, EMERGENCY_1, "
        "EMERGENCY_2, EMERGENCY_3",
        "13: 'window_s' is not known in profiles.town.overload; did you mean max_gap_windows?",
        "14: default is a shipped profile; give yours a name of its own",
        "15: '9' is no name; expected up to 63 of A-Z, a-z, 0-9, _ . and -, a letter first",
        "16: 'profils' is not known in the file; did you mean profiles?",
        "20: alarm_profiles.night: rule is 'OVERLAOD'; did you mean OVERLOAD?",
        "21: alarm_profiles.night: asset_kind is 'metre'; did you mean meter?",
    ]


@pytest.mark.parametrize(
    ("section", "line", "word"),
    [
        ("outage: {sustained_s: 300, momentary_s: 400}", 3, "expected momentary_s to be at most sustained_s"),
        (
            "outage:\n      meters_min: 3\n      meters_min_small: 4",
            5,
            "meters_min_small to be at most meters_min",
        ),
        ("outage: {p_read: 0}", 3, "p_read"),
        ("silence: {back_share: 0.9}", 3, "expected back_share to be at most lost_share"),
        ("overload:\n      levels:\n        OVERLOAD:\n          clear_pu: 1.01", 5, "level OVERLOAD clears at 1.01"),
        (
            "overload:\n      levels:\n        HEAVY: {raise_pu: 1.0}",
            5,
            "level OVERLOAD raises at 1.0, not above HEAVY",
        ),
        ("overload: {page_from_level: OVRLOAD}", 3, "page_from_level"),
        ("overload:\n      reverse_levels: {REVERSE_HEAVY: none}", 4, "reverse_levels is empty"),
        ("overload:\n      feeder_levels: {OVERLOAD: none}", 4, "feeders: page_from_level is 'OVERLOAD'"),
        ("overload:\n      seasons:\n        - {name: winter, begins: 13-01, scale: 1}", 5, "season winter begins"),
        ("contract:\n      levels: {ABOVE: {clear_pu: 1.5}}", 4, "level ABOVE clears at 1.5"),
        ("hot_spot:\n      thermal:\n        warning_c: 150", 5, "expected them rising"),
    ],
)
def test_what_contradicts_itself_is_named_where_it_stands(directory: Path, section: str, line: int, word: str) -> None:
    found = problems(directory, f"profiles:\n  town:\n    {section}\n")
    assert [problem for problem in found if problem.startswith(f"{line}: ") and word in problem], found


def test_a_profile_that_inherits_itself_is_refused(directory: Path) -> None:
    found = problems(directory, "profiles:\n  a: {inherits: b}\n  b: {inherits: a}\n")
    assert found == ["3: profiles.b inherits itself (a -> b -> a); leave one out"]


@pytest.mark.parametrize("text", ["", "- 1\n", "profiles: &a {}\n", "profiles: [1]\n", "{", "profiles: {a: 1}\n"])
def test_what_is_no_file_of_profiles_is_refused(directory: Path, text: str) -> None:
    assert problems(directory, text)


def test_the_configuration_chooses_a_profile_of_the_file_and_tells_what_is_wrong_with_it(directory: Path) -> None:
    path = directory / "profiles.yaml"
    path.write_text("profiles: {town: {inherits: seasonal}}\n")
    config = directory / "meterwatch.toml"
    config.write_text(f'[rules]\nprofiles_file = "{path}"\nprofile = "town"\n')
    assert load_config().rules.profile == "town"
    config.write_text(f'[rules]\nprofiles_file = "{path}"\nprofile = "village"\n[alarms]\nprofile = "night"\n')
    with pytest.raises(ConfigError) as error:
        load_config()
    assert [problem.partition(";")[0] for problem in error.value.problems] == [
        "rules.profile = 'village' is not known", "alarms.profile = 'night' is not known"
    ]  # fmt: skip
    path.write_text("profiles: {town: {outage: {p_gasp: x}}}\n")
    with pytest.raises(ConfigError) as error:
        load_config()
    assert error.value.problems == [f"{path}:1: profiles.town.outage.p_gasp is 'x'; expected a number"]


def test_the_example_is_sound_and_says_what_its_comments_say() -> None:
    found = known_profiles(ROOT / "docs" / "profiles.example.yaml")
    town = found.rules["town"]
    assert town.outage.p_gasp == 0.7
    assert "EMERGENCY_3" not in [level.name for level in town.overload.levels]
    assert town.overload.feeder_levels[0].name == "WARM"
    assert town.contract.levels[2].severity is Severity.CRITICAL
    assert found.alarms["night"].of("CONTRACT", "meter").on_delay_s == 3600


def test_thermal_types_are_changed_and_added_by_name_and_air_seasons_take_the_place_of_those_inherited(
    directory: Path,
) -> None:
    found = rules(
        directory,
        """\
        profiles:
          a:
            hot_spot:
              types:
                onan-small: {up_to_kva: 250}
                fitted: {oil_rise_k: 47, since: 2026-03-01}
                onan-large: none
              air_seasons:
                - {name: winter, begins: 11-01, ambient_c: -5}
          b:
            inherits: a
            hot_spot:
              types:
                - {name: only, loss_ratio: 4}
        """,
    )
    small, medium, _ = SHIPPED_TYPES
    a, b = found["a"].hot_spot, found["b"].hot_spot
    fitted = ThermalType("fitted", oil_rise_k=47.0, since="2026-03-01")
    assert a.types == (replace(small, up_to_kva=250.0), medium, fitted)
    assert a.air_seasons == b.air_seasons == (AirSeason("winter", "11-01", -5.0),)
    assert b.types == (ThermalType("only", loss_ratio=4.0),)


def test_a_thermal_type_that_cannot_be_is_told_with_its_line(directory: Path) -> None:
    found = problems(
        directory,
        """\
        profiles:
          a:
            hot_spot:
              types:
                x: {oil_rise: 47}
                y: {oil_rise_k: -1}
          b:
            hot_spot:
              types:
                z: {since: soon}
        """,
    )
    assert [line.split(":")[0] for line in found] == ["5", "6", "10"]
    assert "oil_rise_k" in found[0]
