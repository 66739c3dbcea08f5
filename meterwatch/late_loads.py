"""Windows that changed after they had been judged for good: judged anew from stored loads, for every rule that does so.

Promises: what is not stored yet is counted too; a rule is told only when all is known, so a failure of the database in
between leaves everything as it was and the next try begins anew. Memory is a piece of the loads of one part of a rule's
assets, however old the reads are and however many. What may wait is judged in the order in which it came; judging later
is the same as its reads coming later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from meterwatch.episodes import Verdict
from meterwatch.known_loads import KnownLoads
from rules.apart import Apart, Rule
from rules.ladder import Ints
from rules.late import Fold, JudgesPast
from rules.overload import Overload
from rules.past import with_ring


async def judged(
    rules: Sequence[JudgesPast],
    overload: Overload,
    loads: KnownLoads,
    now_us: int,
    judge: Callable[[], list[Verdict]],
    go_on: Callable[[], bool] = lambda: True,
) -> list[Verdict]:
    """The verdicts of `judge`, and those of windows that had been judged before. Raises StorageUnavailable.

    overload: whose ring the rules rest on. go_on: asked before each part of a rule's assets; the rest stays late.
    """
    past: list[Verdict] = []
    learnt: list[Callable[[], None]] = []
    queues = [(rule, waiting) for rule in rules if len(waiting := rule.waiting(now_us))]
    while queues and go_on():
        at = int(np.argmin([rule.late.turn[waiting[0]] for rule, waiting in queues]))
        rule, waiting = queues.pop(at)
        part = rule.part(waiting)
        verdicts, learn = (await _folded(rule, np.sort(waiting[:part]), loads, overload.tail)).result()
        past += verdicts
        learnt.append(learn)
        if part < len(waiting):
            queues.insert(at, (rule, waiting[part:]))
    for learn in learnt:
        learn()
    said, tail = judge(), overload.tail
    return with_ring(_of_those_at_work(past, overload.apart), said, tail, overload.window_us) if past else said


def _of_those_at_work(past: list[Verdict], apart: Apart) -> list[Verdict]:
    """Without the verdicts whose end a rule is to say that has raised since; it has missed them."""
    if not apart.suspended:
        return past
    found = []
    for one in past:
        missed = None if one.until_us is not None else apart.missed(Rule(one.rule, one.asset_kind))
        if missed is None:
            found.append(one)
        else:
            missed.note(np.array([one.asset_id]), np.array([one.from_us - 1]))
    return found


async def _folded(rule: JudgesPast, assets: Ints, loads: KnownLoads, tail: int) -> Fold:
    oldest = await loads.oldest(rule.made_of(assets))
    fold = rule.fold(assets, min(oldest, tail))
    while (wanted := fold.wanted()) is not None:
        fold.given(await loads.between(fold.transformers, *wanted))
    return fold


def judged_turn(rules: Sequence[JudgesPast], turn: int) -> int:
    """All that was observed up to this turn of the overload rule is judged, or waits in its ring for its moment."""
    return min([turn, *(rule.late.oldest_turn - 1 for rule in rules)])


def waiting(rules: Sequence[JudgesPast]) -> int:
    """Transformers, and feeders, that wait to be judged."""
    kinds: dict[str, list[Ints]] = {}
    for rule in rules:
        kinds.setdefault(rule.asset_kind, []).append(np.flatnonzero(rule.late.last >= 0))
    return sum(len(np.unique(np.concatenate(each))) for each in kinds.values())
