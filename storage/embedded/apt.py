"""A private apt: Debian's signature checks and downloads, without root and without touching the system's state.

It has its own sources list, package lists and cache in a directory that is thrown away; the machine's proxies,
certificates and other settings in /etc/apt/apt.conf* stay in effect, its hooks do not. It installs nothing.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from storage.embedded.errors import USE_A_URL, EmbeddedError

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
NETWORK_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 1800

_CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{home}/state";
Dir::State::status "{home}/status";
Dir::Cache "{home}/cache";
Dir::Etc::SourceList "{home}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "{timeout}";
Acquire::https::Timeout "{timeout}";
"""


def debian_keyring() -> Path:
    """File with the keys of Debian's releases."""
    for path in KEYRINGS:
        if path.is_file():
            return path
    raise EmbeddedError(f"{KEYRINGS[0]} is missing: install the package debian-archive-keyring. {USE_A_URL}")


class PrivateApt:
    """apt-get and apt-cache for one mirror and one release, in directory `home`."""

    def __init__(self, home: Path, mirror: str, suite: str) -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (home / name).mkdir(parents=True, exist_ok=True)
        (home / "status").touch()
        (home / "sources.list").write_text(f"deb [signed-by={debian_keyring()}] {mirror} {suite} main\n")
        self._config = home / "apt.conf"
        self._config.write_text(_CONFIG.format(home=home, timeout=NETWORK_TIMEOUT_S))
        self._mirror = mirror

    def update(self) -> None:
        self._run(["apt-get", "update"])

    def depends(self, packages: Sequence[str]) -> str:
        """Output of `apt-cache depends --recurse`, hard dependencies only."""
        relations = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        return self._run(["apt-cache", "depends", "--recurse", *(f"--no-{word}" for word in relations), *packages])

    def download(self, packages: Sequence[str], into: Path) -> list[Path]:
        """Fetch packages, checked by apt against the signed package list; returns the .deb files."""
        into.mkdir()
        self._run(["apt-get", "download", *packages], cwd=into)
        return sorted(into.glob("*.deb"))

    def _run(self, command: list[str], cwd: Path | None = None) -> str:
        command = [command[0], "-c", str(self._config), "-q", *command[1:]]
        return run(command, what=f"apt could not use {self._mirror}", cwd=cwd)


def run(command: Sequence[str], *, what: str, cwd: Path | None = None) -> str:
    """Output of a command; EmbeddedError with the last thing it said if it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=True,
        )
    except FileNotFoundError as error:
        raise EmbeddedError(f"{what}: the program {command[0]} is missing. {USE_A_URL}") from error
    except subprocess.TimeoutExpired as error:
        raise EmbeddedError(f"{what}: {command[0]} took over {COMMAND_TIMEOUT_S} s. {USE_A_URL}") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("E:")] or said[-1:] or [f"exit status {error.returncode}"]
        raise EmbeddedError(f"{what}: {errors[0].rstrip('.')}. {USE_A_URL}") from error
    return done.stdout
