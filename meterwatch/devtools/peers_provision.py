"""Fetches what `make bench-peers` compares with: VictoriaMetrics and InfluxDB as Debian packages them.

`python -m meterwatch.devtools.peers_provision` prints one JSON object: package -> {version, suite, command} or
{missing: why}. As with the embedded database nothing is installed: packages come through apt with its signature check,
are unpacked beside that database's cache, and run there with the loader and the libraries that came with them. A
package counts only when it is in `peers.json`, which is written last. Knows nothing of what the programs are for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from storage.embedded import EmbeddedError, cache_dir, paths
from storage.embedded.apt import PrivateApt, run
from storage.embedded.closure import closure, parse_depends
from storage.embedded.provision import SUITE, running_release
from storage.embedded.sources import mirrors, read_sources

PROGRAMS: Final = {"victoria-metrics": "usr/bin/victoria-metrics", "influxdb": "usr/bin/influxd"}
"""Package -> its server."""
RUN_CHECK: Final = {"victoria-metrics": ["--help"], "influxdb": ["version"]}
"""Arguments with which a server shows that it runs, and ends."""
DIRECTORY: Final = "peers"
MANIFEST: Final = "peers.json"


def find_or_provision(say: Callable[[str], None], cache: Path | None = None) -> dict[str, dict[str, Any]]:
    """What there is of each package, fetched if it is not there yet. A package that cannot be had says why."""
    home = (cache or cache_dir()) / DIRECTORY
    manifest = home / MANIFEST
    found: dict[str, dict[str, Any]] = json.loads(manifest.read_text()) if manifest.is_file() else {}
    found = {name: one for name, one in found.items() if _runs(name, one["command"])}
    wanted = [name for name in PROGRAMS if name not in found]
    if not wanted:
        return found
    paths.make_dir(home, 0o755)
    missing: dict[str, dict[str, Any]] = {}
    for name in wanted:
        try:
            found[name] = _fetch(name, home, say)
        except EmbeddedError as error:
            missing[name] = {"missing": str(error)}
    fresh = manifest.with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1) + "\n")
    fresh.replace(manifest)
    return found | missing


def _fetch(name: str, home: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """One package from the first release that has it: the embedded database's, then this machine's own."""
    codename = running_release()["VERSION_CODENAME"]
    tried: list[str] = []
    for suite in dict.fromkeys((SUITE, codename)):
        for mirror in mirrors(read_sources(), codename):
            say(f"Fetching {name} of Debian {suite} into {home} (once; the system is not touched)")
            try:
                return _unpacked(name, suite, mirror, home)
            except EmbeddedError as error:
                tried.append(f"{suite} at {mirror}: {error}")
    raise EmbeddedError(f"{name} could not be had from any Debian release this machine's apt reaches: {tried}")


def _unpacked(name: str, suite: str, mirror: str, home: Path) -> dict[str, Any]:
    building = Path(tempfile.mkdtemp(prefix=".fetching-", dir=home))
    try:
        apt = PrivateApt(building / "apt", mirror, suite)
        apt.update()
        packages = closure(parse_depends(apt.depends([name])), [name])
        debs = apt.download(packages, building / "debs")
        tree = building / "tree"
        for deb in debs:
            run(["dpkg-deb", "-x", str(deb), str(tree)], what=f"{deb.name} could not be unpacked")
        version = next(deb.name.split("_")[1] for deb in debs if deb.name.startswith(f"{name}_"))
        final = home / f"{name}-{version}"
        shutil.rmtree(final, ignore_errors=True)
        tree.rename(final)
        final.chmod(0o755)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    command = _command(final, PROGRAMS[name])
    if not _runs(name, command):
        raise EmbeddedError(f"{name} {version} was unpacked into {final}, but does not run there")
    return {"version": version.replace("%3a", ":"), "suite": suite, "command": command}


def _command(tree: Path, program: str) -> list[str]:
    """The program under the loader of its own libc: it need not fit this machine's."""
    loaders = [*tree.glob("usr/lib/*/ld-linux*.so.*"), *tree.glob("lib/*/ld-linux*.so.*")]
    loaders = [path for path in loaders if not path.is_symlink()] or loaders
    if not loaders:
        return [str(tree / program)]
    libraries = sorted({str(path.parent) for path in (*tree.glob("usr/lib/*/*.so*"), *tree.glob("lib/*/*.so*"))})
    return [str(loaders[0]), "--library-path", ":".join(libraries), str(tree / program)]


def _runs(name: str, command: list[str]) -> bool:
    try:
        done = subprocess.run([*command, *RUN_CHECK[name]], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(done.stdout or done.stderr) and done.returncode in (0, 2)  # Go's flag package ends --help with 0 or 2


if __name__ == "__main__":
    print(json.dumps(find_or_provision(lambda sentence: print(sentence, file=sys.stderr))))
