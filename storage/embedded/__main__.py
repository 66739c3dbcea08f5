"""python -m storage.embedded provision | status | clean: for the Makefile, and for people who want to look."""

import argparse
import sys
from pathlib import Path

import psycopg

from storage.embedded import paths
from storage.embedded.clean import clean, clean_account
from storage.embedded.cluster import EmbeddedCluster
from storage.embedded.errors import EmbeddedError
from storage.embedded.provision import find_installed, find_or_provision

EX_CONFIG = 78  # sysexits.h: something is missing or misconfigured on this machine


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m storage.embedded", description=__doc__)
    parser.add_argument("command", choices=("provision", "status", "clean"))
    parser.add_argument("--quiet", action="store_true", help="say nothing if there is nothing to do")
    options = parser.parse_args(arguments)
    try:
        if options.command == "provision":
            install = find_or_provision(_say)
            if not options.quiet:
                print(install.describe())
        elif options.command == "status":
            _status(paths.data_dir(), paths.cache_dir())
        else:
            clean(paths.data_dir(), paths.cache_dir(), _say)
            clean_account(_say)
    except EmbeddedError as error:
        print(f"meterwatch: {error}", file=sys.stderr)
        return EX_CONFIG
    return 0


def _status(data_dir: Path, cache_dir: Path) -> None:
    install = find_installed(cache_dir)
    print(f"programs  {install.describe() if install else f'none yet (would be fetched into {cache_dir})'}")
    print(f"data      {data_dir}{'' if (data_dir / 'pgdata').exists() else ' (none yet)'}")
    if install is not None:
        print(f"cluster   {_describe_cluster(EmbeddedCluster(data_dir, install))}")


def _describe_cluster(cluster: EmbeddedCluster) -> str:
    url = cluster.running_dsn()
    if url is None:
        return "not running"
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            row = connection.execute("SELECT current_setting('timescaledb.license')").fetchone()
    except psycopg.OperationalError as error:
        return f"running, but does not answer: {error}"
    return f"running, TimescaleDB edition: {row[0] if row else 'unknown'}, {url}"


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
