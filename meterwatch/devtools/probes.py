"""Which way code went: modules are compiled with a probe on each branch, and a run leaves the trail of those it passed.

For `meterwatch.devtools.guided`, and a process of its own: what is imported before `probed` has no probes. A probe is
a call of C, some 30 ns; tracing by the interpreter costs a hundred times that. What the code computes does not change.
Arrays have no branches: which of their values went where is not seen.
"""

from __future__ import annotations

import ast
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Final

import numpy as np

_REACHED: Final = "__reached__"


class Trail:
    """Probes passed since `begin`, in order. A probe is a number; `where` says of what file and line."""

    def __init__(self) -> None:
        self.where: list[tuple[str, int]] = []
        self._passed = array("i")
        self.reached: Callable[[int], None] = self._passed.append

    def new(self, path: str, line: int) -> int:
        """Number of another probe."""
        self.where.append((path, line))
        return len(self.where) - 1

    def begin(self) -> None:
        """Forget what was passed."""
        del self._passed[:]

    def arcs(self) -> set[int]:
        """Pairs of probes passed one after the other, each as a number."""
        passed = np.array(self._passed, np.int64)
        return set(np.unique(passed[:-1] << 32 | passed[1:]).tolist())


class _Probing(ast.NodeTransformer):
    """Puts a call of _REACHED, which returns None, before everything that may be reached or not."""

    def __init__(self, trail: Trail, path: str) -> None:
        self._trail, self._path = trail, path

    def _call(self, before: ast.AST) -> ast.Call:
        number = self._trail.new(self._path, getattr(before, "lineno", 0))
        call = ast.Call(ast.Name(_REACHED, ast.Load()), [ast.Constant(number)], [])
        return ast.fix_missing_locations(ast.copy_location(call, before))

    def _statement(self, before: ast.AST) -> ast.Expr:
        call = self._call(before)
        return ast.copy_location(ast.Expr(call), call)

    def _value(self, value: ast.expr) -> ast.expr:
        return ast.copy_location(ast.BoolOp(ast.Or(), [self._call(value), value]), value)

    def _body(self, node: ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.If) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, self._statement(node.body[0]))
        return node

    visit_For = visit_AsyncFor = visit_While = visit_ExceptHandler = _body

    def visit_If(self, node: ast.If) -> ast.AST:
        self._body(node)
        node.orelse.insert(0, self._statement(node.orelse[0] if node.orelse else node))
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, self._statement(node.body[0]))
        return node

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        documented = ast.get_docstring(node, clean=False) is not None
        self.generic_visit(node)
        node.body.insert(int(documented), self._statement(node))
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        node.values[1:] = map(self._value, node.values[1:])
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        node.body, node.orelse = self._value(node.body), self._value(node.orelse)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        if node.ifs:
            call = self._call(node.ifs[-1])
            always = ast.Compare(call, [ast.Is()], [ast.Constant(None)])
            node.ifs.append(ast.fix_missing_locations(ast.copy_location(always, call)))
        return node


class _Loader(SourceFileLoader):
    """Compiles a module with probes, never from a cache and into none."""

    def __init__(self, name: str, path: str, trail: Trail) -> None:
        super().__init__(name, path)
        self._trail = trail

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path), self.path)
        return compile(_Probing(self._trail, self.path).visit(tree), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, _REACHED, self._trail.reached)
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, packages: Iterable[str], but: Iterable[str], trail: Trail) -> None:
        self._packages, self._but, self._trail = tuple(packages), tuple(but), trail

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _within(fullname, self._packages) or _within(fullname, self._but):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self._trail)
        return spec


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@contextmanager
def probed(packages: Iterable[str], but: Iterable[str] = ()) -> Iterator[Trail]:
    """Whatever is imported of these packages meanwhile has probes; of `but` not."""
    trail = Trail()
    finder = _Finder(packages, but, trail)
    sys.meta_path.insert(0, finder)
    try:
        yield trail
    finally:
        sys.meta_path.remove(finder)
