"""Which Debian mirror this machine uses, read from its own apt configuration.

Both formats apt knows: one line an entry (`sources.list`), and stanzas (`*.sources`, deb822). The project names no
mirror of its own: what the machine's owner chose for Debian is asked for the release we need. Pure text in, entries
out; what cannot be understood is skipped, for apt itself would have complained about it already.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# What a release may be called instead of by its code name.
SUITE_ALIASES = frozenset({"stable", "oldstable", "oldoldstable", "testing"})


@dataclass(frozen=True, slots=True)
class Source:
    """One archive, one suite, as an apt source names it."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_one_line(text: str) -> Iterator[Source]:
    """Entries of a `*.list` file: `deb [options] uri suite component...`."""
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0], count=1).split()
        if len(words) >= 3 and words[0] == "deb":
            yield Source(words[1], words[2], tuple(words[3:]))


def parse_deb822(text: str) -> Iterator[Source]:
    """Entries of a `*.sources` file; one for each pair of URI and suite."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", lines):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in {" ", "\t"}:
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()))


def read_sources(apt_dir: Path = Path("/etc/apt")) -> list[Source]:
    """All binary sources of this machine, in the order in which apt reads them."""
    files = [apt_dir / "sources.list", *sorted((apt_dir / "sources.list.d").glob("*"))]
    found: list[Source] = []
    for path in files:
        parse = {".list": parse_one_line, ".sources": parse_deb822}.get(path.suffix)
        if parse is not None and path.is_file():
            found.extend(parse(path.read_text(errors="replace")))
    return found


def mirrors(sources: Iterable[Source], codename: str) -> list[str]:
    """URIs of Debian's main archive, likeliest first, without repeats.

    An entry counts if it has the running release (by code name or alias) and the component `main`. Others than
    Debian use such entries too, so those whose path ends in `debian` come first; whichever is tried, the signature
    of the Debian release key decides.
    """
    suites = SUITE_ALIASES | {codename}
    uris = [
        source.uri.rstrip("/")
        for source in sources
        if source.suite in suites and "main" in source.components and not source.uri.startswith("cdrom:")
    ]
    return sorted(dict.fromkeys(uris), key=lambda uri: not re.search(r"/debian$|debian[^/]*\.list$", uri))
