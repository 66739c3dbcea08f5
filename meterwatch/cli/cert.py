"""meterwatch cert: certificates to try TLS with, and what is in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from meterwatch.cli.output import Output, OutputOption, listing
from meterwatch.errors import ConfigError

app = typer.Typer(no_args_is_help=True)
COLUMNS: Final = ("file", "name", "role", "from", "to", "serial")


@app.command()
def dev(
    directory: Annotated[Path, typer.Argument(help="An empty directory, or a new one.")],
    host: Annotated[
        list[str] | None, typer.Option(help="A name or address of the service besides localhost; repeatable.")
    ] = None,
    district: Annotated[
        list[str] | None, typer.Option(help="District of the operator and the viewer; repeatable; none: all.")
    ] = None,
) -> None:
    """Make a throw-away CA, a certificate for the service and one for each role. Not for a real network."""
    from meterwatch.transport.certificates import now_utc
    from meterwatch.transport.dev import DAYS, write_all

    for path in write_all(directory, now_utc(), host or (), district or ()):
        print(path)
    at = directory.resolve()
    print(
        f"\nValid for {DAYS} days; whoever has {directory}/ca.key.pem can make more of them.\n\n"
        f"METERWATCH_SERVER__TLS__CERTIFICATE={at}/server.pem METERWATCH_SERVER__TLS__KEY={at}/server.key.pem "
        f"METERWATCH_SERVER__TLS__CLIENT_CA={at}/ca.pem meterwatch serve\n"
        f"meterwatch --tls-ca {at}/ca.pem --tls-cert {at}/operator.pem --tls-key {at}/operator.key.pem alarms list"
    )


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(help="PEM files of certificates.")],
    output: OutputOption = Output.table,
) -> None:
    """Show whose certificates are in a file, and when they end."""
    from cryptography.x509 import NameOID

    from meterwatch.transport.certificates import common_name, parsed_chain

    rows = []
    for path in files:
        chain, problems = parsed_chain(str(path), path.read_bytes())
        if problems:
            raise ConfigError(problems)
        for one in chain:
            units = one.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
            rows.append(
                {
                    "file": str(path), "name": common_name(one), "role": ", ".join(str(unit.value) for unit in units),
                    "from": f"{one.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
                    "to": f"{one.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}", "serial": f"{one.serial_number:x}",
                }
            )  # fmt: skip
    listing(rows, COLUMNS, output)
