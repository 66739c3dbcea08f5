"""What can be made wrong in a module, one thing at a time, out of its syntax tree.

Made wrong are comparisons and where their bounds lie, arithmetic, `and` and `or`, conditions, constants, min and max,
any and all, the side of a search, the order of two arguments, and statements that are left out. Left alone is what no
law is about: texts, annotations, decorators, log lines, assertions, what an error says. A mutant is named by what it
does, not by a line number, so that a list of them outlives other changes of the file.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

COMPARED: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
"""The bound on the other side, and the opposite."""
COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
CALLED: Final = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any",
    "floor": "ceil", "ceil": "floor", "left": "right", "right": "left",
}  # fmt: skip
"""Functions and methods, and the sides of `searchsorted`."""
SYMMETRIC: Final = {"min", "max", "minimum", "maximum", "union1d", "intersect1d", "array_equal", "logical_and",
                    "logical_or", "isinstance", "zip"}  # fmt: skip
LARGE: Final = 100
"""A number this large is halved and doubled: that a limit of 100,000 is no 100,001 is no law."""


class Change(NamedTuple):
    """One thing made wrong: in words, and the node to put in the place of the old one."""

    before: str
    after: str
    node: ast.AST


@dataclass(frozen=True, slots=True)
class Mutant:
    """One thing made wrong in a module. function: where, qualified, "" at the module's level; nth: of those alike."""

    module: str
    function: str
    before: str
    after: str
    nth: int
    lines: tuple[int, int]
    """First and last line of the statement, or of its head."""
    place: tuple[int, int]
    """Which node in the order of `ast.walk`, and which change of it."""
    at_import: bool
    """Run by an import, so by whatever comes after it."""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.module, self.function, self.before, self.after, self.nth

    def __str__(self) -> str:
        return f"{self.module}:{self.lines[0]} {self.function or '(module)'}: {self.before}  ->  {self.after}"


def mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    place = {id(node): number for number, node in enumerate(ast.walk(tree))}
    found, alike = [], Counter[tuple[str, str, str]]()
    for node, where in _sites(tree, _Where("", (1, 1), True)):
        for variant, change in enumerate(changes(node, where.function)):
            name = where.function, change.before, change.after
            at = place[id(node)], variant
            found.append(Mutant(module, *name, alike[name], where.lines, at, where.at_import))
            alike[name] += 1
    return found


def made_wrong(mutant: Mutant, source: str) -> ast.Module:
    """The module with the one change; as it is if before and after are the same."""
    tree = ast.parse(source)
    if mutant.before == mutant.after:
        return tree
    number, variant = mutant.place
    target = next(node for i, node in enumerate(ast.walk(tree)) if i == number)
    change = list(changes(target, mutant.function))[variant]
    if (change.before, change.after) != (mutant.before, mutant.after):
        raise ValueError(f"{mutant} is not of this source; expected the one it was found in")
    _Put(target, ast.copy_location(change.node, target)).visit(tree)
    return ast.fix_missing_locations(tree)


class _Put(ast.NodeTransformer):
    """One node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self._new if node is self._old else self.generic_visit(node)


class _Where(NamedTuple):
    """In which function, qualified; the lines of the statement; whether an import runs them."""

    function: str
    lines: tuple[int, int]
    at_import: bool


def _sites(node: ast.AST, where: _Where) -> Iterator[tuple[ast.AST, _Where]]:
    """Nodes that may be changed."""
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
        where = where._replace(lines=(node.lineno, max(last, node.lineno)))
    yield node, where
    inside = where
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        name = f"{where.function}.{node.name}" if where.function else node.name
        inside = where._replace(function=name, at_import=where.at_import and isinstance(node, ast.ClassDef))
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _left_alone(child):
                yield from _sites(child, inside if field == "body" else where)


def _left_alone(node: ast.AST) -> bool:
    """What no law is about, with all below it."""
    if isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    call = node.value if isinstance(node, ast.Expr) else node
    call = call.value if isinstance(call, ast.Await) else call
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("_log.", "log.", "warnings."))


def changes(node: ast.AST, function: str) -> Iterator[Change]:
    """What can be made wrong about one node."""
    match node:
        case ast.Compare():
            for i, operator in enumerate(node.ops):
                for other in COMPARED[type(operator)]:
                    yield _changed(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])
        case ast.BinOp() if function and not _text(node.left) and not _text(node.right):
            yield _changed(node, op=COMPUTED[type(node.op)]())
        case ast.AugAssign():
            yield _changed(node, op=COMPUTED[type(node.op)]())
            yield _left_out(node)
        case ast.BoolOp():
            yield _changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case (
            ast.UnaryOp(op=ast.Not() | ast.Invert()) | ast.UnaryOp(op=ast.USub(), operand=ast.Name() | ast.Attribute())
        ):
            yield Change(ast.unparse(node), ast.unparse(node.operand), node.operand)
        case ast.If() | ast.While() | ast.IfExp() if isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            no = ast.UnaryOp(ast.Not(), node.test)
            yield Change(f"if {ast.unparse(node.test)}", f"if {ast.unparse(no)}", _with(node, test=no))
        case ast.Constant():
            yield from _other_values(node)
        case ast.Call():
            yield from _other_calls(node)
        case ast.keyword(arg="side", value=ast.Constant(value=side)) if side in CALLED:
            yield _changed(node, value=ast.Constant(CALLED[side]))
        case ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            yield _left_out(node)
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield _left_out(node)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) if not function.endswith("__init__"):
            yield _left_out(node)


def _other_values(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    others: tuple[object, ...] = ()
    if isinstance(value, bool):
        others = (not value,)
    elif isinstance(value, int):
        others = (value + 1, value - 1) if value < LARGE else (2 * value, value // 2)
    elif isinstance(value, float):
        others = (2 * value, value / 2) if value else (1.0,)
    for other in others:
        yield _changed(node, value=other)


def _other_calls(node: ast.Call) -> Iterator[Change]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in CALLED and isinstance(node.func, ast.Attribute):
        yield _changed(node, func=_with(node.func, attr=CALLED[name]))
    elif name in CALLED:
        yield _changed(node, func=_with(node.func, id=CALLED[name]))
    if len(node.args) < 2 or name in SYMMETRIC:
        return
    first, second, *others = node.args
    plain = all(isinstance(one, ast.Name | ast.Attribute | ast.Subscript) for one in (first, second))
    types = any(ast.unparse(one).startswith("np.") for one in (first, second))
    if plain and not types and ast.dump(first) != ast.dump(second):
        yield _changed(node, args=[second, first, *others])


def _text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _with(node: ast.AST, **fields: object) -> Any:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _changed(node: ast.AST, **fields: object) -> Change:
    other = _with(node, **fields)
    return Change(ast.unparse(node), ast.unparse(other), other)


def _left_out(node: ast.AST) -> Change:
    return Change(ast.unparse(node).partition("\n")[0], "pass", ast.Pass())
