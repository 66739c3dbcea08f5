"""meterwatch rules: check, test, list, reload, resume. Rules that engineers write, before and while they are in force;
and rules that have raised and stand aside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from meterwatch.alarms import USER_PREFIX, AlarmType
from meterwatch.cli import rules as over_history
from meterwatch.cli.calls import calling
from meterwatch.cli.failures import EX_FAILED, fail
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.v1 import rules_pb2
from meterwatch.v1 import user_rules_pb2 as pb

app = over_history.app

FilesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="FILE...", help="Files, directories or shipped:NAME; else as configured.")
]
LISTED: Final = ("alert", "on", "severity", "state", "awake", "alarms", "rows", "ns_per_row", "errors")
COLUMNS: Final = ("alert", "on", "severity", "for", "keep_firing_for", "expr", "file")


@app.command()
def check(context: typer.Context, files: FilesArgument = None, output: OutputOption = Output.table) -> None:
    """Say whether files of rules are sound, and list their rules; all errors at once, with file and line."""
    from meterwatch.user_rules import read_rules

    found = read_rules(files or _configured(context))
    if found.problems:
        fail([str(problem) for problem in found.problems], EX_FAILED)
    rows: list[dict[str, Any]] = [
        {
            "alert": placed.rule.name,
            "on": placed.rule.on.value,
            "severity": placed.rule.severity.name,
            "for": placed.rule.for_s,
            "keep_firing_for": placed.rule.keep_firing_s,
            "expr": placed.rule.expr,
            "labels": dict(placed.rule.labels),
            "group": placed.group,
            "file": f"{placed.file}:{placed.line}",
        }
        for placed in found.rules
    ]
    listing(rows, COLUMNS, output)


@app.command(name="test")
def try_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of tests.")],
    rules: Annotated[list[str] | None, typer.Option("--rules", help="Test these, not what the files name.")] = None,
) -> None:
    """Run the unit tests of files: what given reads raise, and when. All failures at once, with file and line."""
    from meterwatch.user_rule_tests import run_file

    outcomes = [run_file(path, rules or ()) for path in files]
    if problems := [str(problem) for outcome in outcomes for problem in outcome.problems]:
        fail(problems, EX_FAILED)
    print(f"passed: {sum(one.tests for one in outcomes)} tests of {sum(one.rules for one in outcomes)} rules")


@app.command(name="list")
def list_(context: typer.Context, address: AddressOption = None, output: OutputOption = Output.table) -> None:
    """List user rules in force and how they fare, after all rules that have raised and stand aside.

    Leaves with 1 if the files of user rules were refused at the last reload, or a rule stands aside.
    """
    with calling(address_of(context, address)) as call:
        found = call("UserRules/ListUserRules", pb.ListUserRulesRequest(), pb.ListUserRulesResponse)
        aside = call("Rules/ListSuspended", rules_pb2.ListSuspendedRequest(), rules_pb2.ListSuspendedResponse)
    names = {(one.rule, one.asset_kind) for one in aside.rule}
    rows: list[dict[str, Any]] = [_suspended(one) for one in aside.rule]
    rows += [
        {
            "alert": rule.name,
            "on": rule.on,
            "severity": rule.severity,
            "state": _state(rule, names),
            "awake": rule.awake_assets,
            "alarms": rule.alarms,
            "rows": rule.rows,
            "ns_per_row": round(rule.spent_ms * 1e6 / rule.rows, 1) if rule.rows else 0,
            "errors": rule.errors,
            "expr": rule.expr,
            "for_s": rule.for_s,
            "keep_firing_for_s": rule.keep_firing_for_s,
            "labels": dict(rule.labels),
            "place": rule.place,
        }
        for rule in found.rule
    ]
    listing(rows, LISTED, output)
    if problems := [*(_stands_aside(one) for one in aside.rule), *found.problem]:
        fail(problems, EX_FAILED)


@app.command()
def reload(context: typer.Context, address: AddressOption = None) -> None:
    """Have the service read its files of rules again; leave with 1 if they are not sound, and nothing changes."""
    with calling(address_of(context, address)) as call:
        found = call("UserRules/ReloadUserRules", pb.ReloadUserRulesRequest(), pb.ReloadUserRulesResponse)
    if found.problem:
        fail(list(found.problem), EX_FAILED)
    print("in force")


@app.command()
def resume(context: typer.Context, address: AddressOption = None) -> None:
    """Have rules work again that have raised and stand aside; they judge what they missed.

    Leaves with 1 if one of them raises again.
    """
    with calling(address_of(context, address)) as call:
        found = call("Rules/Resume", rules_pb2.ResumeRequest(), rules_pb2.ResumeResponse)
    if found.rule:
        fail([_stands_aside(one) for one in found.rule], EX_FAILED)
    print("all rules work")


def _state(rule: pb.UserRule, suspended: set[tuple[str, str]]) -> str:
    if suspended & {(USER_PREFIX + rule.name, rule.on), (AlarmType.USER, rule.on)}:
        return "stands aside, see above"
    return f"put aside: {rule.last_error}" if rule.aside_rows else "at work"


def _suspended(one: rules_pb2.SuspendedRule) -> dict[str, Any]:
    """As a row of the list."""
    return {
        "alert": one.rule,
        "on": one.asset_kind,
        "severity": "",
        "state": f"stands aside since {utc(one.since_us)}: {one.error}",
        "alarms": one.alarms,
    }


def _stands_aside(one: rules_pb2.SuspendedRule) -> str:
    name = f"{one.rule} {one.asset_kind}".strip()
    return f"{name} has raised and stands aside since {utc(one.since_us)}: {one.error}; {one.alarms} alarms of it last"


def _configured(context: typer.Context) -> list[str]:
    from meterwatch.config import load_config

    names = load_config(context.obj).rules.files
    if not names:
        raise typer.BadParameter("name files, or set rules.files in the configuration", param_hint="FILE...")
    return names
