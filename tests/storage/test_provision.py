"""Provisioning, as far as it is pure: apt sources, the closure of packages, what counts as provisioned, places."""

import json
from pathlib import Path

import pytest

from storage.embedded import closure, paths, provision, settings
from storage.embedded.errors import EmbeddedError
from storage.embedded.install import find_system
from storage.embedded.sources import Source, mirrors, parse_deb822, parse_one_line, read_sources

ONE_LINE = """\
# comment
deb http://mirror.example/debian bookworm main contrib  # the archive
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://other.example/apt bookworm main
deb-src http://mirror.example/debian bookworm main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
# deb http://off.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
deb http://flat.example/ ./
"""

DEB822 = """\
Types: deb deb-src
# http://archive.example/a-comment-inside
URIs: http://mirror.example/debian http://second.example/debian/
Suites: trixie
 trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS/xcRfwEQWzr
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
 \t
types: deb
uris: mirror+file:/etc/apt/mirrors/debian.list
suites: stable
components: main
"""


def test_one_line_sources_are_read() -> None:
    assert list(parse_one_line(ONE_LINE)) == [
        Source("http://mirror.example/debian", "bookworm", ("main", "contrib")),
        Source("https://other.example/apt", "bookworm", ("main",)),
        Source("cdrom:", "/", ("bookworm", "main")),
        Source("http://mirror.example/debian-security", "bookworm-security", ("main",)),
        Source("http://flat.example/", "./", ()),
    ]


def test_deb822_sources_are_read() -> None:
    assert list(parse_deb822(DEB822)) == [
        Source("http://mirror.example/debian", "trixie", ("main",)),
        Source("http://mirror.example/debian", "trixie-updates", ("main",)),
        Source("http://second.example/debian/", "trixie", ("main",)),
        Source("http://second.example/debian/", "trixie-updates", ("main",)),
        Source("mirror+file:/etc/apt/mirrors/debian.list", "stable", ("main",)),
    ]


def test_files_of_both_formats_are_found_and_others_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "b.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "c.list.save").write_text("deb http://c.example/debian bookworm main\n")
    found = {source.uri for source in read_sources(tmp_path)}
    assert "http://a.example/debian" in found
    assert "http://mirror.example/debian" in found
    assert "http://c.example/debian" not in found


def test_no_sources_at_all_is_an_empty_list(tmp_path: Path) -> None:
    assert read_sources(tmp_path / "absent") == []


def test_the_mirror_is_the_running_release_s_main_archive_debian_first() -> None:
    others_first = [
        Source("https://other.example/apt", "bookworm", ("main",)),
        *parse_one_line(ONE_LINE),
        Source("http://mirror.example/debian/", "bookworm", ("main",)),
        Source("http://contrib.example/debian", "bookworm", ("contrib",)),
        Source("http://future.example/debian", "sid", ("main",)),
    ]
    assert mirrors(others_first, "bookworm") == ["http://mirror.example/debian", "https://other.example/apt"]


def test_a_release_may_be_named_by_an_alias() -> None:
    assert mirrors([Source("http://mirror.example/debian", "stable", ("main",))], "trixie") == [
        "http://mirror.example/debian"
    ]


DEPENDS = """\
postgresql-17
 |Depends: locales
  Depends: locales-all
  Depends: postgresql-client-17
  Depends: postgresql-common
  Depends: <debconf-2.0>
    debconf
  PreDepends: libc6
  Depends: libllvm19
  Depends: libpq5
postgresql-client-17
  Depends: libpq5
postgresql-common
  Depends: perl
  Depends: libjson-perl
perl
  Depends: libdb5.3
libpq5
  Depends: libldap2
libldap2
  Depends: libsasl2-2
  Depends: libpq5
libsasl2-2
  Depends: libsasl2-modules-db
libc6
  Depends: libgcc-s1
libgcc-s1
  Depends: gcc-14-base
"""


def test_the_closure_holds_libraries_and_nothing_that_only_an_installed_service_needs() -> None:
    graph = closure.parse_depends(DEPENDS)
    assert closure.closure(graph, ["postgresql-17", "postgresql-client-17"]) == [
        "libc6",
        "libgcc-s1",
        "libldap2",
        "libpq5",
        "libsasl2-2",
        "postgresql-17",
        "postgresql-client-17",
    ]


def fake_install(root: Path, major: int, *, timescaledb: bool) -> None:
    programs = root / f"usr/lib/postgresql/{major}/bin"
    programs.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (programs / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {major}.4 (Debian {major}.4-1)'\n")
        (programs / name).chmod(0o755)
    if timescaledb:
        extension = root / f"usr/share/postgresql/{major}/extension"
        extension.mkdir(parents=True)
        (extension / "timescaledb.control").write_text("comment = 'x'\ndefault_version = '2.19.3'\n")
        (root / f"usr/lib/postgresql/{major}/lib").mkdir()
        (root / f"usr/lib/postgresql/{major}/lib/timescaledb-2.19.3.so").touch()


def test_the_newest_system_postgresql_that_has_timescaledb_is_used(tmp_path: Path) -> None:
    fake_install(tmp_path, 15, timescaledb=True)
    fake_install(tmp_path, 17, timescaledb=True)
    fake_install(tmp_path, 18, timescaledb=False)
    found = find_system(tmp_path)
    assert found is not None
    assert (found.origin, found.postgres_version, found.timescaledb_version) == ("system", "17.4", "2.19.3")
    assert found.bin_dir == tmp_path / "usr/lib/postgresql/17/bin"


def test_a_system_postgresql_that_is_too_old_or_without_timescaledb_is_passed_over(tmp_path: Path) -> None:
    fake_install(tmp_path, 14, timescaledb=True)
    fake_install(tmp_path, 16, timescaledb=False)
    assert find_system(tmp_path) is None


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        "",
        "{",
        "[]",
        json.dumps({"format": provision.MANIFEST_FORMAT + 1, "tree": "postgresql-17-1"}),
        json.dumps({"format": provision.MANIFEST_FORMAT, "tree": "gone", "suite": "trixie", "postgres": "17.12"}),
    ],
)
def test_a_half_provisioned_cache_is_not_taken_for_a_good_one(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "postgresql-17-1" / "usr/lib/postgresql/17/bin").mkdir(parents=True)
    (tmp_path / "postgresql-17-1" / "usr/lib/postgresql/17/bin/postgres").touch()
    if manifest is not None:
        (tmp_path / provision.MANIFEST).write_text(manifest)
    assert provision.find_provisioned(tmp_path) is None


def test_a_machine_without_a_debian_mirror_is_told_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "find_system", lambda: None)
    monkeypatch.setattr(provision, "read_sources", list)
    monkeypatch.setattr(provision.platform, "freedesktop_os_release", lambda: DEBIAN)
    with pytest.raises(EmbeddedError, match=r"no Debian mirror.*METERWATCH_DATABASE__URL"):
        provision.find_or_provision(str, tmp_path)


def test_another_distribution_is_told_so_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "find_system", lambda: None)
    fedora = {"ID": "fedora", "PRETTY_NAME": "Fedora 44"}
    monkeypatch.setattr(provision.platform, "freedesktop_os_release", lambda: fedora)
    with pytest.raises(EmbeddedError, match=r"this is Fedora 44.*METERWATCH_DATABASE__URL"):
        provision.find_or_provision(str, tmp_path)


def test_a_machine_without_apt_is_told_so_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "find_system", lambda: None)
    monkeypatch.setattr(
        provision, "read_sources", lambda: [Source("http://mirror.example/debian", "bookworm", ("main",))]
    )
    monkeypatch.setattr(provision.platform, "freedesktop_os_release", lambda: DEBIAN)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"apt-get is missing.*METERWATCH_DATABASE__URL"):
        provision.find_or_provision(str, tmp_path)


DEBIAN = {"ID": "debian", "VERSION_CODENAME": "bookworm", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}


def test_root_and_others_have_their_own_places_and_overrides_win() -> None:
    home = {"HOME": "/home/ann"}
    assert paths.data_dir(home, root=True) == Path("/var/lib/meterwatch")
    assert paths.cache_dir(home, root=True) == Path("/var/cache/meterwatch")
    assert paths.data_dir(home, root=False) == Path("/home/ann/.local/share/meterwatch")
    assert paths.cache_dir({**home, "XDG_CACHE_HOME": "/x"}, root=False) == Path("/x/meterwatch")
    assert paths.cache_dir({**home, "XDG_CACHE_HOME": "relative"}, root=False) == Path("/home/ann/.cache/meterwatch")
    assert paths.data_dir({"METERWATCH_DATA_DIR": "/srv/mw"}, root=True) == Path("/srv/mw")
    with pytest.raises(EmbeddedError, match="HOME is not set"):
        paths.data_dir({}, root=False)


@pytest.mark.parametrize("memory_bytes", [256 * settings.MiB, 2 * settings.GiB, 512 * settings.GiB])
def test_nothing_can_follow_the_durability_settings(memory_bytes: int) -> None:
    machine = settings.Machine(memory_bytes, disk_free_bytes=settings.GiB, cores=1)
    text = settings.postgresql_conf(machine, Path("/data"), Path("/data/run"), wal_compression="lz4")
    before, _, after = text.partition("include = '/data/local.conf'")
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert f"\n{name} = 'on'\n" in after
        assert name not in before
    assert "listen_addresses = ''" in before


def test_sizes_follow_the_machine_within_their_limits() -> None:
    def conf(memory_bytes: int, disk_free_bytes: int) -> list[str]:
        machine = settings.Machine(memory_bytes, disk_free_bytes, cores=4)
        return settings.postgresql_conf(machine, Path("/d"), Path("/d/run"), wal_compression="lz4").splitlines()

    small, large = conf(settings.GiB, 4 * settings.GiB), conf(64 * settings.GiB, 1000 * settings.GiB)
    assert "shared_buffers = '256MB'" in small
    assert "max_wal_size = '512MB'" in small
    assert "shared_buffers = '4096MB'" in large
    assert "max_wal_size = '4096MB'" in large


GIB = settings.GiB


@pytest.mark.parametrize(
    ("ours", "files", "limits"),
    [
        ("0::/\n", {"memory.max": f"{4 * GIB}\n"}, [4 * GIB]),  # a container, cgroups of version 2
        ("0::/system.slice/meterwatch.service\n", {  # a unit with MemoryMax below a slice that has none
            "system.slice/meterwatch.service/memory.max": f"{3 * GIB}\n", "system.slice/memory.max": "max\n",
        }, [3 * GIB]),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{2 * GIB}\n"}, [2 * GIB]),
        ("5:cpu,cpuacct:/\n4:memory:/docker/0123\n1:name=systemd:/x\n", {  # a container, version 1
            "memory/memory.limit_in_bytes": f"{4 * GIB}\n", "memory.max": f"{GIB}\n",
        }, [4 * GIB]),
        ("4:memory:/\n0::/\n", {}, []),
        (None, {"memory.max": f"{GIB}\n"}, []),
    ],
)  # fmt: skip
def test_a_limit_of_memory_is_found_wherever_the_control_group_has_it(
    tmp_path: Path, ours: str | None, files: dict[str, str], limits: list[int]
) -> None:
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if ours is not None:
        (tmp_path / "ours").write_text(ours)
    assert settings.memory_limits(tmp_path / "groups", tmp_path / "ours") == limits
