"""Laws of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from meterwatch.config import Config, load_config
from meterwatch.errors import ConfigError


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERWATCH_CONFIG", raising=False)


TOKENS = "[access]\njwks_file = 'k'\nissuer = 'i'\naudience = 'a'\n"
TLS = "[server.tls]\ncertificate = 'a'\nkey = 'b'\n"


def problems(text: str) -> list[str]:
    Path("bad.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Path("bad.toml"))
    return caught.value.problems


def test_without_a_file_the_defaults_hold() -> None:
    assert load_config() == Config()


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("meterwatch.toml").write_text("[server]\nport = 1\ncredits = 3\n")
    monkeypatch.setenv("METERWATCH_SERVER__PORT", "2")
    server = load_config().server
    assert (server.port, server.credits) == (2, 3)


def test_the_file_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text("[metrics]\nport = 9\n")
    monkeypatch.setenv("METERWATCH_CONFIG", "other.toml")
    assert load_config().metrics.port == 9


def test_all_problems_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERWATCH_LGO__LEVEL", "info")
    found = problems('servr = 1\n[server]\nhots = "x"\nport = "a"\ncredits = 0\n[clock]\nmode = "simulated"\n')
    text = "\n".join(found)
    for part in ("servr", "did you mean 'server'", "'host'", "server.port = 'a'", "server.credits = 0", "clock.start"):
        assert part in text
    assert "METERWATCH_LGO__LEVEL" in text
    assert len(found) == 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[server]\nhost = "0.0.0.0"', "insecure_listen"),
        ("[server]\nport = 7\n[metrics]\nport = 7", "different ports"),
        ("[server.tls]\ncertificate = 'a'", "server.tls.key is not"),
        ("[server.tls]\nclient_ca = 'a'", "has no meaning without"),
        ("[server.tls]\ncertificate = 'a'\nkey = 'b'\ntoken_port = 0", "without server.tls.client_ca all are"),
        (f"{TLS}client_ca = 'c'\ntoken_port = 50551\n{TOKENS}", "different ports"),
        (f"{TLS}client_ca = 'c'\ntoken_port = 7\n{TOKENS}[metrics]\nport = 7", "different ports"),
        (f"{TLS}client_ca = 'c'\ntoken_port = 7", "and none are taken"),
        (TLS, "nobody could say who they are"),
        ("[server.tls]\ncertificat = 'a'", "did you mean 'certificate'"),
        ("[client]\nkey = 'a'", "belong together"),
        ('[database]\nurl = "postgresql://me:hidden@db.example/y"', "does not demand TLS"),
        ('[database]\nurl = "postgresql://me:hidden@db.example/y?sslmode=prefer"', "does not demand TLS"),
        ('[database]\nurl = "postgresql://me:hidden@127.0.0.1:5432,db.example:5432/y"', "does not demand TLS"),
        ('[database]\nurl = "postgresql://me:hidden@localhost/y?hostaddr=10.0.0.1"', "does not demand TLS"),
        ('database = "postgresql://me:hidden@127.0.0.1/y"', "database: "),
        ('[database]\nurl = { password = "hidden" }', "database.url: "),
        ('[clock]\nmode = "replay"', "needs clock.start"),
        ("[clock]\nspeed = 2", "only with"),
        ('[rules]\nprofile = "bogus"', "en50160"),
        ('[checks]\nprofile = "bogus"', "lenient"),
        ('[checks.changes]\n"2026-01-01T00:00:00Z" = "bogus"', "lenient"),
        ('[checks.changes]\n"2026-01-01T00:00:00" = "lenient"', "timezone"),
        ('[database]\nurl = "mysql://me:hidden@127.0.0.1/y"', "postgresql://"),
        ("[server", "is not TOML"),
        ("server = 3", "server = 3"),
    ],
)
def test_each_cross_check_is_one_sentence(text: str, says: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert says in found[0]
    assert "hidden" not in found[0]


def test_an_open_host_needs_consent() -> None:
    Path("a.toml").write_text('[server]\nhost = "0.0.0.0"\ninsecure_listen = true')
    assert load_config(Path("a.toml")).server.host == "0.0.0.0"


def test_with_a_certificate_any_host_will_do() -> None:
    Path("a.toml").write_text('[server]\nhost = "0.0.0.0"\n' + TLS + "client_ca = 'c'\n")
    assert load_config(Path("a.toml")).server.tls.certificate == Path("a")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@127.0.0.1/y",
        "postgresql://me@[::1]:5432/y",
        "postgresql:///y?host=/var/run/postgresql",
        "postgresql:///y",
        "postgresql://me@db.example/y?sslmode=require",
        "postgresql://me@db.example/y?sslmode=verify-full&sslrootcert=ca.pem",
    ],
)
def test_a_database_here_or_by_tls_needs_no_consent(url: str) -> None:
    Path("a.toml").write_text(f'[database]\nurl = "{url}"')
    assert load_config(Path("a.toml")).database.url is not None


def test_a_database_elsewhere_in_plain_text_needs_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.toml").write_text('[database]\nurl = "postgresql://me@db.example/y"\ninsecure_network = true')
    assert load_config(Path("a.toml")).database.insecure_network
    monkeypatch.setenv("METERWATCH_DATABASE__INSECURE_NETWORK", "false")
    with pytest.raises(ConfigError, match="does not demand TLS"):
        load_config(Path("a.toml"))
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert load_config(Path("a.toml")).database.url is not None


def test_a_secret_in_the_environment_in_a_wrong_place_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERWATCH_DATABASE", "postgresql://me:hidden@127.0.0.1/x")
    assert "hidden" not in "\n".join(problems(""))


def test_a_secret_does_not_show() -> None:
    Path("a.toml").write_text('[database]\nurl = "postgresql://me:hidden@127.0.0.1/y"')
    assert "hidden" not in repr(load_config(Path("a.toml")))


def test_the_start_of_the_clock_is_utc_microseconds() -> None:
    Path("a.toml").write_text('[clock]\nmode = "simulated"\nstart = 2026-01-01T01:00:00+01:00')
    assert load_config(Path("a.toml")).clock.start_us == 1_767_225_600_000_000
