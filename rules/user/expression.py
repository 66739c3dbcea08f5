"""The language of user rules: a text becomes a tree of known nodes, or an error that says what to change.

Python's own parser reads the text, and nothing of Python runs it: every node of its tree is translated one by one or
refused. Known are numbers, columns, + - * /, comparisons (also chained), and, or, not, abs, min, max and present.
Everything else is refused by name: attributes, indexes, other calls, powers, strings, lambdas, and so on.

Logic of three values (Kleene): a comparison with an absent value is unknown; `unknown or true` is true, `unknown and
false` is false. It costs no third array: `not` is pushed down to the comparisons, where it turns their sign, and NaN
compares false both ways. So `negated` gives the tree that is true exactly where this one is false.

Promise: `parsed` raises Wrong and nothing else, for any text.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from rules.user.columns import ColumnType, Kind

CHARACTERS_MAX: Final = 2000
NODES_MAX: Final = 200
DEPTH_MAX: Final = 30
"""Of parentheses, operators and calls in each other. The text is measured before Python's parser sees it."""
CONSTANT_MAX: Final = 1e15
"""Above it a number of Wh is no integer any more in 64-bit floats."""
ARGUMENTS_MAX: Final = 20

_ARITHMETIC: Final[dict[type[ast.operator], str]] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_COMPARISON: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
OPPOSITE: Final = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
FUNCTIONS: Final = ("abs", "min", "max", "present")


class Wrong(Exception):
    """Why a text is no expression. column: place in the text, from 1."""

    def __init__(self, message: str, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.column = column


@dataclass(frozen=True, slots=True)
class Node:
    """One step of an expression: op, and what it works on.

    column (name), flag (name), constant (value), + - * / abs neg min max, < <= > >= == !=, and or, present (name). A
    truth that is negated in place has the op not-flag or absent.
    """

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: float = 0.0


def parsed(text: str, columns: Mapping[str, ColumnType]) -> Node:
    """The tree of an expression that is true or false. Wrong if it is none."""
    _check_size(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "1if" and `is` with a literal: refused below
            body = ast.parse(_on_one_line(text).strip() or " ", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        column = getattr(error, "offset", None) or 1
        raise Wrong(f"{_short(text)} is no expression; write it like voltage_max_v > 1.1 * nominal_v", column) from None
    reader = _Reader(columns)
    node, kind = reader.read(body, DEPTH_MAX)
    if kind is not Kind.TRUTH:
        raise Wrong(f"{_short(text)} is a {kind}; a rule is true or false: compare it with something")
    if not names_of(node):
        raise Wrong(f"{_short(text)} names no column; it would be true always or never")
    return node


def names_of(node: Node) -> list[str]:
    """The columns it names, in the order of their first use."""
    found = {node.name: None} if node.name else {}
    for arg in node.args:
        found |= dict.fromkeys(names_of(arg))
    return list(found)


def negated(node: Node) -> Node:
    """The tree that is true where this one is false. Unknown stays unknown."""
    match node.op:
        case "and" | "or":
            return Node("or" if node.op == "and" else "and", tuple(negated(arg) for arg in node.args))
        case "flag" | "not-flag":
            return Node("not-flag" if node.op == "flag" else "flag", name=node.name)
        case "present" | "absent":
            return Node("absent" if node.op == "present" else "present", name=node.name)
        case _:
            return Node(OPPOSITE[node.op], node.args)


def _check_size(text: str) -> None:
    if len(text) > CHARACTERS_MAX:
        raise Wrong(f"{len(text)} characters; at most {CHARACTERS_MAX} are read; make two rules of it")
    if not text.strip():
        raise Wrong("the expression is empty; write it like voltage_max_v > 1.1 * nominal_v")
    for sign in ("#", "\0", "\\"):
        if sign in text:
            raise Wrong(f"{sign!r} is not known here; leave it out", text.index(sign) + 1)
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth > DEPTH_MAX:
            raise Wrong(f"more than {DEPTH_MAX} parentheses in each other; make two rules of it", at + 1)


def _on_one_line(text: str) -> str:
    return "".join(" " if character in "\r\n\t\f\v" else character for character in text)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:57] + "...")


class _Reader:
    """Translates the nodes of Python's tree and counts them."""

    def __init__(self, columns: Mapping[str, ColumnType]) -> None:
        self._columns = columns
        self._left = NODES_MAX

    def read(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        self._left -= 1
        if self._left < 0:
            self._refuse(node, f"more than {NODES_MAX} parts; make two rules of it")
        if depth == 0:
            self._refuse(node, f"more than {DEPTH_MAX} parts in each other; make two rules of it")
        read: Callable[[_Reader, ast.expr, int], tuple[Node, Kind]] | None = _READ.get(type(node))
        if read is None:
            self._refuse(node, f"{_words(node)} is not known here; known are {_KNOWN}")
        return read(self, node, depth - 1)

    def number(self, node: ast.expr, depth: int) -> Node:
        return self._of(node, depth, Kind.NUMBER)

    def truth(self, node: ast.expr, depth: int) -> Node:
        return self._of(node, depth, Kind.TRUTH)

    def constant(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        assert isinstance(node, ast.Constant)
        if type(node.value) not in (int, float):
            self._refuse(node, f"{_short(repr(node.value))} is no number; write a number or the name of a column")
        assert isinstance(node.value, int | float)
        if not abs(node.value) <= CONSTANT_MAX:
            self._refuse(node, f"a number beyond {CONSTANT_MAX:g}; no column is as large: use a smaller one")
        return Node("constant", value=float(node.value)), Kind.NUMBER

    def column(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        assert isinstance(node, ast.Name)
        kind = self._columns[self._name(node)].kind
        return Node("column" if kind is Kind.NUMBER else "flag", name=node.id), kind

    def unary(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        assert isinstance(node, ast.UnaryOp)
        if isinstance(node.op, ast.Not):
            return negated(self.truth(node.operand, depth)), Kind.TRUTH
        if isinstance(node.op, ast.Invert):
            self._refuse(node, "~ is not known here; write not")
        inner = self.number(node.operand, depth)
        return (_folded(Node("neg", (inner,)), node) if isinstance(node.op, ast.USub) else inner), Kind.NUMBER

    def binary(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        assert isinstance(node, ast.BinOp)
        op = _ARITHMETIC.get(type(node.op))
        if op is None:
            hint = "; for a square write x * x" if isinstance(node.op, ast.Pow) else ""
            self._refuse(node, f"{_words(node.op)} is not known here; known are + - * /{hint}")
        return _folded(Node(op, (self.number(node.left, depth), self.number(node.right, depth))), node), Kind.NUMBER

    def logic(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        assert isinstance(node, ast.BoolOp)
        op = "and" if isinstance(node.op, ast.And) else "or"
        return Node(op, tuple(self.truth(value, depth) for value in node.values)), Kind.TRUTH

    def comparison(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        assert isinstance(node, ast.Compare)
        sides = [self.number(side, depth) for side in (node.left, *node.comparators)]
        pairs = []
        for sign, left, right in zip(node.ops, sides, sides[1:], strict=False):
            op = _COMPARISON.get(type(sign))
            if op is None:
                self._refuse(node, f"{_words(sign)} is not known here; known are {' '.join(_COMPARISON.values())}")
            pairs.append(Node(op, (left, right)))
        return (pairs[0] if len(pairs) == 1 else Node("and", tuple(pairs))), Kind.TRUTH

    def call(self, node: ast.expr, depth: int) -> tuple[Node, Kind]:
        assert isinstance(node, ast.Call)
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            self._refuse(node, f"{_words(node)} is not known here; known are {', '.join(FUNCTIONS)}")
        name, count = node.func.id, len(node.args)
        if node.keywords or any(isinstance(arg, ast.Starred) for arg in node.args):
            self._refuse(node, f"{name} takes values between commas, without names and stars")
        if name == "present":
            if count != 1 or not isinstance(node.args[0], ast.Name):
                self._refuse(node, "present takes the name of one column")
            column = self._name(node.args[0])
            if self._columns[column].kind is not Kind.NUMBER:
                self._refuse(node, f"{column} is true or false and always there; leave present away")
            return Node("present", name=column), Kind.TRUTH
        least, most = (1, 1) if name == "abs" else (2, ARGUMENTS_MAX)
        if not least <= count <= most:
            self._refuse(node, f"{name} takes {least if least == most else f'{least} to {most}'} values, not {count}")
        return _folded(Node(name, tuple(self.number(arg, depth) for arg in node.args)), node), Kind.NUMBER

    def _of(self, node: ast.expr, depth: int, wanted: Kind) -> Node:
        found, kind = self.read(node, depth)
        if kind is not wanted:
            self._refuse(node, f"a {kind} stands where a {wanted} is needed")
        return found

    def _name(self, node: ast.Name) -> str:
        if node.id not in self._columns:
            self._refuse(node, f"{_short(node.id)} is no column here; known are {', '.join(self._columns)}")
        return node.id

    @staticmethod
    def _refuse(node: ast.expr, message: str) -> NoReturn:
        raise Wrong(message, node.col_offset + 1)


_READ: Final[dict[type[ast.expr], Callable[[_Reader, ast.expr, int], tuple[Node, Kind]]]] = {
    ast.Constant: _Reader.constant,
    ast.Name: _Reader.column,
    ast.UnaryOp: _Reader.unary,
    ast.BinOp: _Reader.binary,
    ast.BoolOp: _Reader.logic,
    ast.Compare: _Reader.comparison,
    ast.Call: _Reader.call,
}
_KNOWN: Final = "numbers, columns, + - * /, < <= > >= == !=, and or not, " + ", ".join(FUNCTIONS)


def _words(node: ast.AST) -> str:
    """What a node is, for people."""
    known = {
        ast.Attribute: "a dot after a name", ast.Subscript: "an index", ast.Pow: "**", ast.IfExp: "if",
        ast.Lambda: "lambda", ast.JoinedStr: "a text", ast.NamedExpr: ":=", ast.Mod: "%", ast.FloorDiv: "//",
    }  # fmt: skip
    if isinstance(node, ast.Call):
        return f"{node.func.id}()" if isinstance(node.func, ast.Name) else "such a call"
    return known.get(type(node), type(node).__name__)


def _folded(node: Node, place: ast.expr) -> Node:
    """A part of constants alone as one constant. Wrong if it has no value."""
    if not all(arg.op == "constant" for arg in node.args):
        return node
    values = [arg.value for arg in node.args]
    try:
        value = _FOLD[node.op](*values)
    except ZeroDivisionError:
        raise Wrong("a division by zero", place.col_offset + 1) from None
    if not math.isfinite(value) or abs(value) > CONSTANT_MAX:
        raise Wrong(f"a number beyond {CONSTANT_MAX:g} comes of it", place.col_offset + 1)
    return Node("constant", value=value)


_FOLD: Final[dict[str, Callable[..., float]]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "neg": lambda a: -a, "abs": abs, "min": min, "max": max,
}  # fmt: skip
