"""Generate the stubs in meterwatch/v1 from proto/, or check that the committed ones are fresh.

`python -m meterwatch.devtools.stubs` writes them, `--check` exits 1 and names the stale ones. Needs grpcio-tools and
mypy-protobuf (development dependencies).
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
OUT = ROOT / "meterwatch" / "v1"


def generate(out: Path) -> None:
    """Write all stubs below `out` (as out/meterwatch/v1/...). Raises SystemExit when protoc refuses a file."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    plugin_grpc = Path(sys.executable).parent / "protoc-gen-mypy_grpc"
    files = sorted(str(path) for path in (PROTO / "meterwatch" / "v1").glob("*.proto"))
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{well_known}",
        f"--plugin=protoc-gen-mypy={plugin}",
        f"--plugin=protoc-gen-mypy_grpc={plugin_grpc}",
        f"--python_out={out}",
        f"--mypy_out={out}",
        *files,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed; see above")
    with_services = [name for name in files if "service " in Path(name).read_text()]
    if (
        protoc.main(
            [
                *arguments[: len(arguments) - len(files) - 2],
                f"--grpc_python_out={out}",
                f"--mypy_grpc_out={out}",
                *with_services,
            ]
        )
        != 0
    ):
        raise SystemExit("protoc failed; see above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "meterwatch" / "v1"
        stale = []
        for path in sorted(fresh.iterdir()):
            target = OUT / path.name
            if not target.exists() or not filecmp.cmp(path, target, shallow=False):
                stale.append(path.name)
                if not check:
                    target.write_bytes(path.read_bytes())
    if check and stale:
        raise SystemExit(f"stale stubs: {', '.join(stale)}; run python -m meterwatch.devtools.stubs and commit")
    sys.stdout.write("stubs are fresh\n" if not stale else f"wrote {', '.join(stale)}\n")


if __name__ == "__main__":
    main()
