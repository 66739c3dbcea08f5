"""Which packages PostgreSQL needs to run in a directory of its own: programs and shared libraries, nothing else.

A Debian package also depends on what an installed service wants (perl scripts, locales, certificates, users). None
of that is run here. LLVM is 100 MB for a just-in-time compiler that is switched off.
"""

import re
from collections.abc import Iterable

ROOTS = ("postgresql-17", "postgresql-17-timescaledb", "postgresql-client-17")

_LIBRARY = re.compile(r"^(lib|zlib1g)")
_NOT_NEEDED = re.compile(r"perl|llvm|python|^libc-|^libsasl2-modules|-(common|dev|doc|bin|data)$")


def parse_depends(text: str) -> dict[str, list[str]]:
    """Package to the packages it depends on, from the output of `apt-cache depends --recurse`.

    Virtual packages (`<name>`) are left out: no shared library is one.
    """
    graph: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace():
            current = graph.setdefault(line.strip(), [])
        elif match := re.match(r"\s+\|?(?:Pre)?Depends: ([^<\s]+)$", line):
            current.append(match[1])
    return graph


def closure(graph: dict[str, list[str]], roots: Iterable[str] = ROOTS) -> list[str]:
    """Roots and every library package reachable from them through kept packages, sorted."""
    roots = tuple(roots)
    kept: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in kept:
            continue
        kept.add(name)
        todo.extend(
            need
            for need in graph.get(name, ())
            if need in roots or (_LIBRARY.match(need) and not _NOT_NEEDED.search(need))
        )
    return sorted(kept)
