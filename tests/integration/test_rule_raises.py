"""What other rules rest on raises: nothing unjudged is acknowledged, the service ends, and a start makes it good."""

from __future__ import annotations

from pathlib import Path

import pytest
from databases import Databases
from served import fresh_database
from service_process import ServiceProcess
from test_failpoints import START, living

FAILED = 1  # exit status; whoever supervises the service starts it anew


def raising(directory: Path) -> str:
    """Program in which a method of Overload raises while a file of its name is there."""
    return f"""
from pathlib import Path
from rules.overload import Overload
def may_raise(name):
    kernel = getattr(Overload, name)
    def raises(*arguments, **options):
        if Path({str(directory)!r}, name).exists():
            raise FloatingPointError("a kernel that raises")
        return kernel(*arguments, **options)
    setattr(Overload, name, raises)
may_raise("observe")
may_raise("judge")
"""


def test_what_others_rest_on_ends_the_service_and_nothing_stored_stays_unjudged(
    cluster: Databases, tmp_path: Path
) -> None:
    observe, judge = tmp_path / "observe", tmp_path / "judge"
    with (
        fresh_database(cluster) as dsn,
        ServiceProcess(dsn, START, tmp_path / "output", raising(tmp_path)) as process,
        living(process, dsn) as world,
    ):
        owed = "SELECT count(*) FROM batches WHERE NOT evaluated"
        transformer = next(world.free)
        observe.touch()
        world.overload(transformer)
        assert process.died() == FAILED
        said = process.output.read_text()
        assert "the core has ended by an error of ours" in said
        assert "FloatingPointError: a kernel that raises" in said
        assert world.connection.execute(owed).fetchone() == (1,)
        assert len(world.journal.acks) == len(world.journal.sent) - 1

        observe.unlink()
        judge.touch()  # a start judges what is owed: while the rule raises there is none
        with pytest.raises(AssertionError, match=f"the service ended with {FAILED}"):
            process.start()
        process.kill()
        assert world.connection.execute(owed).fetchone() == (1,)
        assert len(world.journal.acks) == len(world.journal.sent) - 1

        judge.unlink()
        process.start()
        world.head_end.flush()
        [(state, _, level, *_, cleared_at, version)] = world.alarms("OVERLOAD", transformer)
        assert (state, level, cleared_at, version) == ("UNACK_ACTIVE", "EMERGENCY_3", None, 1)
        world.kept()
