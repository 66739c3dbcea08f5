"""`make sbom`: the bill of materials as CycloneDX 1.6 JSON: locked Python packages, and Debian's of the database.

Versions and hashes come from requirements.lock, licences and who needs whom from the installed packages, Debian's from
the manifest of the provisioned TimescaleDB (absent where the system's own is used). Development packages have the scope
`excluded`. The hashes of a Python package are those of all its wheels, so they stand as properties; a Debian package
has one file and one hash. The same lock and manifest make the same serial number.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

from meterwatch.devtools.locked import LOCK, Locked, locked, normal
from storage.embedded import paths
from storage.embedded.provision import read_manifest

PROJECT: Final = "meterwatch"
OUT: Final = Path("sbom.cdx.json")
SPACE: Final = uuid.UUID("6f0c1d0e-9d1c-5b8e-8f4a-3c7d7e1f5a10")
"""Of our serial numbers."""


def bill(packages: Iterable[Locked], debian: Mapping[str, Any] | None) -> Bom:
    """The whole bill. Needs every locked package to be installed."""
    packages = list(packages)
    extras = extras_of([PROJECT, *(one.name for one in packages)])
    needs = {name: needs_of(name, extras[name]) for name in extras}
    runtime = closure([PROJECT], needs)
    root = Component(
        type=ComponentType.APPLICATION, name=PROJECT, version=metadata.version(PROJECT), bom_ref=PROJECT,
        licenses=_licences(PROJECT),
    )  # fmt: skip
    parts = {one.name: _python(one, one.name in runtime) for one in packages}
    deb = [_debian(one, str(debian["suite"])) for one in debian["packages"]] if debian else []
    made = Bom(components=[*parts.values(), *deb])
    made.metadata.component = root
    made.serial_number = uuid.uuid5(SPACE, "\n".join(sorted(str(one.purl) for one in made.components)))
    made.register_dependency(root, [parts[name] for name in sorted(needs[PROJECT] & parts.keys())] + deb)
    for name, part in parts.items():
        made.register_dependency(part, [parts[other] for other in sorted(needs[name] & parts.keys())])
    return made


def closure(first: Iterable[str], needs: Mapping[str, set[str]]) -> set[str]:
    """All that is needed by the first, directly or not."""
    found: set[str] = set()
    todo = list(first)
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += needs.get(name, set())
    return found


def extras_of(names: Collection[str]) -> dict[str, set[str]]:
    """Of each package the extras that somebody asks for; "" stands for what it needs without any."""
    found: dict[str, set[str]] = {name: {""} for name in names}
    for name in list(found):
        for one in _wanted(name, {""}):
            found.setdefault(normal(one.name), {""}).update(one.extras)
    return {name: extras for name, extras in found.items() if name in names}


def needs_of(name: str, extras: set[str]) -> set[str]:
    """Names of what an installed package needs on this machine, with these extras."""
    return {normal(one.name) for one in _wanted(name, extras)}


def _wanted(name: str, extras: set[str]) -> list[Requirement]:
    wanted = [Requirement(text) for text in metadata.requires(name) or []]
    return [
        one for one in wanted if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]


def _licences(name: str) -> list[DisjunctiveLicense]:
    """As the package says it: an expression, else its classifiers, else the first line of its field."""
    said = metadata.metadata(name)
    if "License-Expression" in said:
        return [DisjunctiveLicense(name=said["License-Expression"])]
    classifiers = [one.rpartition("::")[2].strip() for one in said.get_all("Classifier", []) if "License ::" in one]
    first = "".join(said.get_all("License", [])).strip().partition("\n")[0]
    return [DisjunctiveLicense(name=one) for one in classifiers or ([first] if first else [])]


def _python(one: Locked, runtime: bool) -> Component:
    return Component(
        type=ComponentType.LIBRARY, name=one.name, version=one.version, bom_ref=f"python:{one.name}",
        scope=ComponentScope.REQUIRED if runtime else ComponentScope.EXCLUDED,
        purl=PackageURL("pypi", name=one.name, version=one.version), licenses=_licences(one.name),
        properties=[Property(name=f"{PROJECT}:wheel:sha256", value=value) for value in one.sha256],
    )  # fmt: skip


def _debian(one: Mapping[str, str], suite: str) -> Component:
    purl = PackageURL(
        "deb", namespace="debian", name=one["package"], version=one["version"], qualifiers={"distro": suite}
    )
    return Component(
        type=ComponentType.LIBRARY, name=one["package"], version=one["version"], bom_ref=f"debian:{one['package']}",
        scope=ComponentScope.REQUIRED, purl=purl, hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one["sha256"])],
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m meterwatch.devtools.sbom", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    packages, debian = locked(LOCK.read_text("utf-8")), read_manifest(paths.cache_dir())
    text = JsonV1Dot6(bill(packages, debian)).output_as_string(indent=1)
    options.out.write_text(text + "\n", "utf-8")
    count = f"{len(debian['packages'])} of Debian's" if debian else "none of Debian's: TimescaleDB is not provisioned"
    sys.stdout.write(f"{len(packages)} Python packages and {count} in {options.out}\n")


if __name__ == "__main__":
    main()
