"""The command line. Each command says in one sentence what is wrong and leaves with a code a script can use.

Exit codes (sysexits.h where it has one): failures.EXIT_CODES, shown by --help. Results go to stdout, what is for people
only (progress, notes, errors, logs) to stderr; no colour and no progress bar when piped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meterwatch.cli import (
    audit,
    cert,
    config,
    db,
    reads,
    registry,
    routes,
    rules,
    shelves,
    thermal,
    user_rules,
    watch,
    work,
)
from meterwatch.cli.doctor import doctor
from meterwatch.cli.failures import EXIT_CODES, ReportingGroup
from meterwatch.cli.gaps import completeness, estimate, gaps
from meterwatch.cli.indices import indices
from meterwatch.cli.loadtest import loadtest
from meterwatch.cli.send import send
from meterwatch.cli.transformers import forecast_app, plan_app, report_app
from meterwatch.client.secure import CA, CERT, KEY, TOKEN_FILE, TOKEN_OVER_PLAINTEXT, in_environment, in_plain_text

app = typer.Typer(
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Smart-meter ingestion and alarms over TimescaleDB.",
    epilog=EXIT_CODES,
)
app.command()(send)
app.command()(doctor)
app.command()(loadtest)
app.command()(indices)
app.command()(thermal.temperatures)
reads.app.command()(gaps)
reads.app.command()(completeness)
reads.app.command()(estimate)
app.add_typer(watch.app, name="alarms", help="List and follow alarms, acknowledge and shelve them, and so on.")
assert shelves.app is watch.app  # one group, to which several modules add their commands
app.add_typer(reads.app, name="reads", help="Stored reads: now, as they were known earlier, and edits by hand.")
app.add_typer(rules.app, name="rules", help="Rules you write, and the rules over stored history.")
assert user_rules.app is rules.app  # one group, to which two modules add their commands
app.add_typer(routes.app, name="routes", help="Who is told of which alarms, and whether they were.")
app.add_typer(registry.app, name="registry", help="Meters, transformers, feeders and how they hang together.")
app.add_typer(work.app, name="work", help="Planned work on the grid, whose outages call nobody.")
app.add_typer(report_app, name="report", help="Pages about one asset.")
app.add_typer(forecast_app, name="forecast", help="What is to be expected.")
app.add_typer(plan_app, name="plan", help="How to bring a load down with the least harm; advice, nothing is switched.")
app.add_typer(thermal.app, name="ambient", help="Temperatures of the air around transformers.")
app.add_typer(audit.app, name="audit", help="Who altered what, and what was refused.")
app.add_typer(db.app, name="db", help="The database behind the service.")
app.add_typer(config.app, name="config", help="Check and show the configuration.")
app.add_typer(cert.app, name="cert", help="Certificates to try TLS with, and what is in one.")


@app.callback()
def _options(
    context: typer.Context,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML file; else METERWATCH_CONFIG, else ./meterwatch.toml.")
    ] = None,
    tls_ca: Annotated[
        str | None, typer.Option(help="CA of the service, or `system`; else METERWATCH_TLS_CA, else plain text.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="Your certificate; else METERWATCH_TLS_CERT.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Its key; else METERWATCH_TLS_KEY.")] = None,
    token_file: Annotated[str | None, typer.Option(help="File with your token; else METERWATCH_TOKEN_FILE.")] = None,
    token_over_plaintext: Annotated[
        bool, typer.Option("--token-over-plaintext", help="Send it to this machine without TLS too.")
    ] = False,
) -> None:
    context.obj = config_file
    given = {CA: tls_ca, CERT: tls_cert, KEY: tls_key, TOKEN_FILE: token_file}
    context.with_resource(in_environment({**given, TOKEN_OVER_PLAINTEXT: "1" if token_over_plaintext else None}))


@app.command()
def serve(context: typer.Context) -> None:
    """Run the service until it is told to stop (Ctrl-C or SIGTERM)."""
    from meterwatch.config import load_config
    from meterwatch.logs import configure
    from meterwatch.process import serve as run_service

    config = load_config(context.obj)
    configure(config.log)
    run_service(config)


@app.command()
def demo(
    context: typer.Context,
    json: Annotated[Path | None, typer.Option(help="Write what happened to this file, as JSON.")] = None,
) -> None:
    """Play two days of a small town against a service of its own, with outages and overloads."""
    from meterwatch.demo import run

    context.with_resource(in_plain_text())
    run(json_path=json)
