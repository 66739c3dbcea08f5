"""Cost of the user rules' kernel: CPU ns per read, so many rules over a fleet whose reads come interval by interval.

`python -m meterwatch.devtools.user_rules_bench 1000000 --rules 50` prints one JSON object. The rules are the shipped
ones on meters again and again with other limits; one meter in --one-in leaves the voltage band at any time.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Final

import numpy as np

from meterwatch.batch import Reads
from meterwatch.clock import US
from meterwatch.devtools.rules_bench import EVALUATE_ROWS, INTERVAL_S, START_US, town
from meterwatch.user_rules import read_rules, shipped
from rules.user.columns import COLUMNS, On
from rules.user.expression import parsed
from rules.user.kernel import Kernel
from rules.user.model import UserRule
from rules.user.read_columns import blocks
from rules.user.seen import Rows

INTERVALS: Final = 6
WARM: Final = 2


def rules_of(count: int) -> list[UserRule]:
    """So many rules, each with limits of its own."""
    models = read_rules(shipped()).on(On.METER)
    made = []
    for n in range(count):
        one = models[n % len(models)]
        expr = one.expr.replace("0.", f"0.{n // len(models)}") if "0." in one.expr else one.expr
        tree = parsed(expr.replace("1.10", f"1.1{n // len(models)}"), COLUMNS[On.METER])
        made.append(UserRule(f"{one.name}_{n}", On.METER, expr, tree, one.for_s, one.keep_firing_s))
    return made


def measure(meters: int, rules: int, one_in: int) -> float:
    """CPU ns per read, median over whole intervals."""
    topology = town(meters)
    kernel = Kernel(On.METER, rules_of(rules), meters, 0, lambda slot: (str(slot), {}), time.thread_time_ns)
    rng = np.random.default_rng(1)
    ns = []
    for interval in range(1, WARM + INTERVALS + 1):
        end_us = START_US + interval * INTERVAL_S * US
        volts = rng.normal(230, 3, (3, meters)).astype(np.float32)
        volts[0, rng.random(meters) < 1 / one_in] = 260
        wh = rng.gamma(2.0, 110.0, meters).astype(np.int32) + 1
        amperes = (wh * (4 / 690)).astype(np.float32)
        spent = 0
        for at in range(0, meters, EVALUATE_ROWS):
            slot = np.arange(at, min(at + EVALUATE_ROWS, meters), dtype=np.int32)
            part = slice(at, at + len(slot))
            channels = {"import_wh": wh[part], "current_a_a": amperes[part]}
            channels |= {f"voltage_{phase}_v": volts[i, part] for i, phase in enumerate("abc")}
            reads = Reads(slot, np.full(len(slot), end_us), INTERVAL_S, np.zeros(len(slot), np.int32), channels)
            began = time.process_time_ns()
            length_us = INTERVAL_S * US
            kernel.observe(
                Rows(columns.slot, reads.end_us[rows], np.full(columns.rows, length_us), columns)
                for rows, columns in blocks(reads, topology)
            )
            kernel.taken()
            spent += time.process_time_ns() - began
        ns.append(spent / meters)
    assert kernel.wanted() is None
    return median(ns[WARM:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("meters", type=int)
    parser.add_argument("--rules", type=int, default=50)
    parser.add_argument("--one-in", type=int, default=1000)
    given = parser.parse_args()
    print(json.dumps(vars(given) | {"ns_per_read": measure(given.meters, given.rules, given.one_in)}))


if __name__ == "__main__":
    main()
