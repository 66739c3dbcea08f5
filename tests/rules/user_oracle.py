"""User rules as one reads them in the documents: an expression on one read, and the holds read by read."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

Spoken = tuple[int, int, int | None]
"""onset, raised, cleared."""


def truth(expr: str, row: Mapping[str, Any]) -> bool | None:
    """Kleene's logic over one row; a value that is absent is NaN or None."""
    return _truth(ast.parse(expr.strip(), mode="eval").body, row)


def _truth(node: ast.expr, row: Mapping[str, Any]) -> bool | None:
    match node:
        case ast.BoolOp(op=op, values=values):
            found = [_truth(value, row) for value in values]
            deciding = isinstance(op, ast.Or)
            if deciding in found:
                return deciding
            return None if None in found else not deciding
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            found_one = _truth(inner, row)
            return None if found_one is None else not found_one
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_number(side, row) for side in (left, *others)]
            pairs = [_compared(op, a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False)]
            if False in pairs:
                return False
            return None if None in pairs else True
        case ast.Call(func=ast.Name(id="present"), args=[ast.Name(id=name)]):
            return not np.isnan(row[name])
        case ast.Name(id=name):
            return bool(row[name])
    raise AssertionError(ast.dump(node))


def _compared(op: ast.cmpop, a: Any, b: Any) -> bool | None:
    if np.isnan(a) or np.isnan(b):
        return None
    match op:
        case ast.Lt():
            return bool(a < b)
        case ast.LtE():
            return bool(a <= b)
        case ast.Gt():
            return bool(a > b)
        case ast.GtE():
            return bool(a >= b)
        case ast.Eq():
            return bool(a == b)
        case _:
            return bool(a != b)


def _number(node: ast.expr, row: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return float(value)
        case ast.Name(id=name):
            return row[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_number(inner, row)
        case ast.UnaryOp(operand=inner):
            return _number(inner, row)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _number(left, row), _number(right, row)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case _:
                    return float("nan") if b == 0 else a / b
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_number(arg, row) for arg in args]
            if any(np.isnan(value) for value in values):
                return float("nan")
            if name == "abs":
                return abs(values[0])
            found = reduce({"min": np.minimum, "max": np.maximum}[name], values)
            return float(found) if all(type(value) is float for value in values) else found  # a constant stays one
    raise AssertionError(ast.dump(node))


@dataclass
class _Run:
    onset: int
    covered: int
    last: int
    raised: int = 0


def episodes(reads: list[tuple[int, int, bool | None]], for_us: int, keep_us: int) -> list[Spoken]:
    """Over (end, length, truth) of one asset, in any order."""
    run: _Run | None = None
    said: list[Spoken] = []
    for end, length, true in sorted(reads):
        if true is None:
            continue
        if not true:
            if run is not None and run.raised:
                if end - run.last >= keep_us:
                    said.append((run.onset, run.raised, run.last + keep_us))
                    run = None
            else:
                run = None
            continue
        if run is None or (not run.raised and end - length - run.last > length):
            run = _Run(end - length, 0, end - length)
        run.covered += min(length, end - run.last)
        run.last = end
        if not run.raised and run.covered >= for_us:
            run.raised = end
    if run is not None and run.raised:
        said.append((run.onset, run.raised, None))
    return said
