"""Finds a PostgreSQL with TimescaleDB, and fetches one into a cache directory if the machine has none.

In this order: what the system has; what was provisioned before; Debian's packages of the release below, downloaded
with apt's signature check, unpacked and fitted to the cache directory. Needs no root, installs nothing, and leaves
the system as it is. A tree counts only when `provisioned.json` names it, and that file is written last, so a killed
provisioning is never taken for a good one; a lock keeps two from running at once.
"""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage.embedded import paths
from storage.embedded.apt import PrivateApt, run
from storage.embedded.closure import ROOTS, closure, parse_depends
from storage.embedded.errors import USE_A_URL, EmbeddedError
from storage.embedded.install import PgInstall, find_system, look_in
from storage.embedded.sources import mirrors, read_sources
from storage.embedded.unpack import patchelf, sha256, unpack

SUITE = "trixie"  # Debian 13: the first release with TimescaleDB 2.19 for PostgreSQL 17
POSTGRES_MAJOR = 17
MANIFEST = "provisioned.json"
MANIFEST_FORMAT = 1  # raised when a tree made by older code must not be used any more
DISK_BYTES_MIN = 400 * 2**20  # measured: 40 MB of packages, 20 MB of lists, 190 MB unpacked

Progress = Callable[[str], None]


def find_or_provision(progress: Progress, cache: Path | None = None) -> PgInstall:
    """A PostgreSQL with TimescaleDB ready to run.

    `progress` gets one sentence for each step that takes longer than a moment. EmbeddedError, in one sentence, if
    the machine cannot have one; the sentence says that a database URL can be given instead.
    """
    cache = cache or paths.cache_dir()
    found = find_installed(cache)
    if found is not None:
        return found
    release = running_release()
    candidates = mirrors(read_sources(), release["VERSION_CODENAME"])
    if not candidates:
        raise EmbeddedError(
            f"TimescaleDB is not installed, and this machine's apt sources name no Debian mirror for"
            f" {release['VERSION_CODENAME']} main to fetch it from: add one to /etc/apt/sources.list.d. {USE_A_URL}"
        )
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(program) is None:
            raise EmbeddedError(f"TimescaleDB is not installed and {program} is missing to fetch it. {USE_A_URL}")
    patchelf()
    paths.make_dir(cache, 0o755)
    with _locked(cache / "provision.lock", progress):
        return find_provisioned(cache) or _provision(cache, candidates, progress)


def find_installed(cache: Path) -> PgInstall | None:
    """What the system has, else what was provisioned before, else None; provisions nothing."""
    return find_system() or find_provisioned(cache)


def find_provisioned(cache: Path) -> PgInstall | None:
    """The tree that the cache's manifest names, if it is there and its programs run."""
    manifest = read_manifest(cache)
    if manifest is None or manifest.get("format") != MANIFEST_FORMAT:
        return None
    tree = cache / str(manifest["tree"])
    found = look_in(tree, "provisioned", [POSTGRES_MAJOR], notes=f"packages of Debian {manifest['suite']}")
    return found if found is not None and found.postgres_version == manifest["postgres"] else None


def read_manifest(cache: Path) -> dict[str, Any] | None:
    """What was provisioned: versions, and name, version and SHA-256 of every package."""
    try:
        manifest = json.loads((cache / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def running_release() -> dict[str, str]:
    """This machine's os-release, if it is a Debian; EmbeddedError otherwise."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if release.get("ID") != "debian" or not release.get("VERSION_CODENAME"):
        name = release.get("PRETTY_NAME", "not a Linux distribution that says its name")
        raise EmbeddedError(
            f"TimescaleDB is not installed, and it can be fetched on Debian 12 and 13 only; this is {name}. {USE_A_URL}"
        )
    return release


def _provision(cache: Path, candidates: list[str], progress: Progress) -> PgInstall:
    started = time.monotonic()
    _remove_leftovers(cache)
    free_bytes = shutil.disk_usage(cache).free
    if free_bytes < DISK_BYTES_MIN:
        raise EmbeddedError(
            f"{cache} has {free_bytes >> 20} MiB free; provisioning TimescaleDB needs {DISK_BYTES_MIN >> 20} MiB:"
            f" free some or set METERWATCH_CACHE_DIR. {USE_A_URL}"
        )
    building = cache / f".building-{os.getpid()}"
    building.mkdir(mode=0o755)
    try:
        progress(
            f"Fetching TimescaleDB from Debian {SUITE} into {cache} (about 50 MB, once; the system is not touched)"
        )
        debs = _download(building, candidates, progress)
        packages = [_describe(deb) for deb in debs]
        final = cache / f"postgresql-{POSTGRES_MAJOR}-{time.time_ns():x}"
        unpack(debs, building / "tree", final, progress)
        (building / "tree").chmod(0o755)
        run(["sync", "-f", str(building)], what="the unpacked files could not be written to disk")
        (building / "tree").rename(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    found = look_in(final, "provisioned", [POSTGRES_MAJOR])
    if found is None:
        raise EmbeddedError(f"PostgreSQL was unpacked into {final}, but does not run there. {USE_A_URL}")
    manifest = {
        "format": MANIFEST_FORMAT,
        "tree": final.name,
        "suite": SUITE,
        "postgres": found.postgres_version,
        "timescaledb": found.timescaledb_version,
        "packages": packages,
    }
    _write_atomically(cache / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    progress(
        f"PostgreSQL {found.postgres_version} and TimescaleDB {found.timescaledb_version} are ready"
        f" ({time.monotonic() - started:.0f} s)"
    )
    return find_provisioned(cache) or found


def _download(building: Path, candidates: list[str], progress: Progress) -> list[Path]:
    """The .deb files of the closure, from the first mirror that has the release."""
    for left, mirror in enumerate(candidates, start=1 - len(candidates)):
        apt = PrivateApt(building / "apt", mirror, SUITE)
        progress(f"Reading the package list of {SUITE}")
        try:
            apt.update()
        except EmbeddedError:
            if left == 0:
                raise
            continue
        packages = closure(parse_depends(apt.depends(ROOTS)))
        progress(f"Downloading {len(packages)} packages")
        return apt.download(packages, building / "debs")
    raise AssertionError("unreachable: the last mirror either answers or raises")


def _describe(deb: Path) -> dict[str, str]:
    name, version, _ = deb.name.removesuffix(".deb").split("_")
    return {"package": name, "version": version.replace("%3a", ":"), "sha256": sha256(deb)}


def _remove_leftovers(cache: Path) -> None:
    """Trees that no manifest names: what a killed provisioning left, or what was replaced."""
    manifest = read_manifest(cache) or {}
    for path in (*cache.glob(".building-*"), *cache.glob(f"postgresql-{POSTGRES_MAJOR}-*")):
        if path.name != manifest.get("tree"):
            shutil.rmtree(path, ignore_errors=True)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o644)
    temporary.replace(path)


@contextlib.contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Another meterwatch is fetching TimescaleDB; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
