"""One place where an exception becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import grpc
import psycopg
import typer
from typer.core import TyperGroup

from meterwatch.client import Unreachable
from meterwatch.client.retry import failure_of
from meterwatch.errors import ConfigError, MeterwatchError, StorageUnavailable
from storage.embedded import EmbeddedError

EX_FAILED: Final = 1
EX_USAGE: Final = 2
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78
EX_INTERRUPTED: Final = 130
EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 input or request refused, wholly or in part; 2 wrong usage; 69 the service or the database "
    "does not answer; 78 the configuration is wrong; 130 interrupted with Ctrl-C."
)


class ReportingGroup(TyperGroup):
    """A command group that ends in an exit code, never in a traceback the user could have avoided."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            fail(error.problems, EX_CONFIG)
        except (Unreachable, StorageUnavailable, psycopg.OperationalError) as error:
            fail([str(error).strip()], EX_UNAVAILABLE)
        except grpc.RpcError as error:
            failure = failure_of(error)
            code = EX_UNAVAILABLE if failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") else EX_FAILED
            fail([f"the service answered {failure.reason or failure.code}: {failure.message}"], code)
        except BrokenPipeError:  # the reader of our output has gone: `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EX_FAILED) from None
        except (MeterwatchError, EmbeddedError, ValueError, OSError) as error:
            fail([str(error)], EX_FAILED)
        except KeyboardInterrupt:
            raise typer.Exit(EX_INTERRUPTED) from None


def fail(sentences: list[str], code: int) -> None:
    """Say what is wrong on stderr and leave."""
    for sentence in sentences:
        print(f"meterwatch: {sentence}", file=sys.stderr)
    raise typer.Exit(code)
