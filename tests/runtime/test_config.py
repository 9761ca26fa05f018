"""Configuration: where values come from, and one clear line for whatever is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from homeserver.runtime.config import (
    Config,
    ConfigError,
    ServerConfig,
    load_config,
    parse_config,
    section,
    setting,
)
from homeserver.runtime.config_docs import markdown, write_example
from homeserver.runtime.config_sections import (
    ALL_SECTIONS,
    ListenersConfig,
    LogConfig,
    Rate,
    RateLimitsConfig,
    TurnConfig,
)


@section("shop")
class ShopConfig:
    """A section with everything."""

    is_open: bool = setting(False, help="Whether it is open.")
    seats: int = setting(4, help="How many may sit.", minimum=1, maximum=10)
    price: float = setting(1.5, help="What it costs.", minimum=0)
    name: str = setting("Corner", help="What it is called.")
    turnover: int = setting(0, help="What it takes in a year.", minimum=0, maximum=1_048_576)
    cakes: list[str] = setting([], help="What there is.", choices=("apple", "plum"))
    ledger: Path | None = setting(None, help="Where it is written down.")


@section("shop.cellar")
class CellarConfig:
    """A table in a table."""

    depth_mm: int = setting(2000, help="How deep it is.")


SECTIONS = [*ALL_SECTIONS, ShopConfig, CellarConfig]
NAMED = 'server_name = "x.org"\n'


def parse(text: str, environment: dict[str, str] | None = None) -> Config:
    return parse_config(text, Path("/etc/hearth/hearth.toml"), SECTIONS, environment or {})


def test_what_is_not_set_stands_at_its_default() -> None:
    shop = parse(NAMED).section(ShopConfig)
    assert (shop.is_open, shop.seats, shop.price, shop.cakes) == (False, 4, 1.5, [])


def test_file_sets_values() -> None:
    config = parse(NAMED + '[shop]\nis_open = true\nprice = 2\ncakes = ["plum"]\n[shop.cellar]\ndepth_mm = 1')
    shop = config.section(ShopConfig)
    assert (shop.is_open, shop.price, shop.cakes) == (True, 2.0, ["plum"])
    assert config.section(CellarConfig).depth_mm == 1


def test_environment_wins_over_the_file() -> None:
    environment = {
        "HEARTH_SHOP_SEATS": "9",
        "HEARTH_SHOP_IS_OPEN": "true",
        "HEARTH_SHOP_CAKES": "apple, plum",
        "HEARTH_SHOP_CELLAR_DEPTH_MM": "3",
        "HEARTH_RATE_LIMITS_MESSAGE_BURST": "7",
        "HEARTH_SERVER_NAME": "y.org",
    }
    config = parse(NAMED + "[shop]\nseats = 2", environment)
    shop = config.section(ShopConfig)
    assert (shop.seats, shop.is_open, shop.cakes) == (9, True, ["apple", "plum"])
    assert config.section(CellarConfig).depth_mm == 3
    assert config.section(RateLimitsConfig).message.burst == 7
    assert config.section(ServerConfig).server_name == "y.org"


def test_paths_are_relative_to_data_dir_and_that_to_the_file() -> None:
    config = parse(NAMED + 'data_dir = "data"\n[shop]\nledger = "books/ledger"')
    assert config.data_dir == Path("/etc/hearth/data")
    assert config.section(ShopConfig).ledger == Path("/etc/hearth/data/books/ledger")
    assert config.section(ServerConfig).signing_key_file == Path("/etc/hearth/data/signing.key")
    absolute = parse(NAMED + 'data_dir = "/var/hearth"\n[shop]\nledger = "/books"')
    assert (absolute.data_dir, absolute.section(ShopConfig).ledger) == (Path("/var/hearth"), Path("/books"))


def test_part_of_a_rate_keeps_the_rest_at_its_default() -> None:
    limits = parse(NAMED + "[rate_limits.login]\nburst = 3").section(RateLimitsConfig)
    assert limits.login == Rate(per_second=RateLimitsConfig().login.per_second, burst=3)


def test_listeners_are_an_array_of_tables() -> None:
    text = '[[listeners]]\nport = 1\n[[listeners]]\nport = 2\nbind = ["::"]\nresources = ["federation"]'
    listeners = parse(NAMED + text).section(ListenersConfig).listeners
    assert [(one.port, one.bind) for one in listeners] == [(1, ["127.0.0.1"]), (2, ["::"])]


def test_without_listeners_there_is_one_on_this_machine() -> None:
    (only,) = parse(NAMED).section(ListenersConfig).listeners
    assert (only.port, only.bind) == (8008, ["127.0.0.1"])


WRONG = [
    ("[shop]\nis_open = 'yes'", '3: [shop] is_open: found "yes", allowed: true or false'),
    ("[shop]\nis_open = 1", "3: [shop] is_open: found 1, allowed: true or false"),
    ("\n[shop]\nseats = 11", "4: [shop] seats: found 11, allowed: a whole number from 1 to 10"),
    ("[shop]\nseats = 1.5", "3: [shop] seats: found 1.5, allowed: a whole number from 1 to 10"),
    ("[shop]\nseats = true", "3: [shop] seats: found true, allowed: a whole number from 1 to 10"),
    ("[shop]\nprice = -1", "3: [shop] price: found -1, allowed: a number from 0"),
    ("[shop]\nprice = nan", "3: [shop] price: found NaN, allowed: a number from 0"),
    ("[shop]\nturnover = -1", "3: [shop] turnover: found -1, allowed: a whole number from 0 to 1048576"),
    ("[shop]\nname = 5", "3: [shop] name: found 5, allowed: a string"),
    ("[shop]\ncakes = ['mud']", '3: [shop] cakes: found ["mud"], allowed: a list of "apple" or "plum"'),
    ("[shop]\ncakes = 'plum'", '3: [shop] cakes: found "plum", allowed: a list of "apple" or "plum"'),
    ("shop = 3", "2: shop: found 3, allowed: a table"),
    ("[shop.cellar]\ndepth_mm = ''", '3: [shop.cellar] depth_mm: found "", allowed: a whole number'),
    ("listeners = 3", "2: listeners: found 3, allowed: an array of tables"),
    (
        "[[listeners]]\nport = 1\n[[listeners]]\nport = 99999",
        "5: [listeners#2] port: found 99999, allowed: a whole number from 0 to 65535",
    ),
    (
        "[rate_limits.login]\nburst = 0",
        "3: [rate_limits.login] burst: found 0, allowed: a whole number from 1",
    ),
    (
        "[log]\nlevel = 'loud'",
        '3: [log] level: found "loud", allowed: "debug" or "info" or "warning" or "error"',
    ),
]


TURN_URI = "a turn:, turns:, stun: or stuns: URI such as turn:turn.example.org?transport=udp"
WRONG += [
    ("[turn]\nuris = ['turn:a']", "2: [turn] shared_secret: missing, as uris is set"),
    ("[turn]\nuris = ['turn:a', 'http://a']", f'3: [turn] uris: found "http://a", allowed: a list, each {TURN_URI}'),
    ("[turn]\nuris = ['turn:']", f'3: [turn] uris: found "turn:", allowed: a list, each {TURN_URI}'),
    (
        "[rtc]\nlivekit_service_urls = ['livekit']",
        '3: [rtc] livekit_service_urls: found "livekit", allowed: a list, each an address such as '
        "https://matrix.example.org",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_wrong_value_is_one_line_with_file_line_key_found_and_allowed(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(NAMED + text)
    assert str(caught.value) == f"hearth.toml:{expected}"


def test_turn_servers_are_accepted_with_their_secret() -> None:
    uris = ["turn:a.example?transport=udp", "turns:[::1]:5349?transport=tcp", "stun:a.example:3478", "STUNS:127.0.0.1"]
    turn = parse(NAMED + "[turn]\nshared_secret = 's'", {"HEARTH_TURN_URIS": ",".join(uris)}).section(TurnConfig)
    assert (turn.uris, turn.shared_secret) == (uris, "s")


@pytest.mark.parametrize(
    ("text", "start", "mentions"),
    [
        ("[shop]\nseat = 1", "hearth.toml:3: [shop] seat: unknown key", "seats"),
        ("[shup]\n", "hearth.toml:2: shup: unknown key", "shop"),
        ("[shop.attic]\n", "hearth.toml:2: [shop] attic: unknown key", "seats"),
        ("[[listeners]]\nprot = 1", "hearth.toml:3: [listeners#1] prot: unknown key", "port"),
        ("[rate_limits.mesage]\nburst = 1", "hearth.toml:2: [rate_limits] mesage: unknown key", "message"),
    ],
)
def test_unknown_key_is_told_what_is_known(text: str, start: str, mentions: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(NAMED + text)
    assert str(caught.value).startswith(start)
    assert mentions in str(caught.value)


def test_missing_required_key_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"^hearth.toml: server_name: missing, allowed: a server name such as example.org$"
    ):
        parse("")


def test_wrong_environment_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r'^environment: HEARTH_SHOP_SEATS: found "many", allowed: a whole'):
        parse(NAMED, {"HEARTH_SHOP_SEATS": "many"})


def test_misspelt_variables_are_told() -> None:
    environment = {
        "HEARTH_SERVERNAME": "y.org",
        "HEARTH_SHOP_SEAT": "9",
        "HEARTH_SHUP_IS_OPEN": "true",
        "HEARTH_LOG_COLOUR": "7",
        "HEARTH_LISTENERS_PORT": "80",
    }
    assert parse(NAMED, environment).warnings == [
        "environment: HEARTH_LISTENERS_PORT: no such setting",
        "environment: HEARTH_LOG_COLOUR: no such setting",
        "environment: HEARTH_SERVERNAME: no such setting, did you mean HEARTH_SERVER_NAME?",
        "environment: HEARTH_SHOP_SEAT: no such setting, did you mean HEARTH_SHOP_SEATS?",
        "environment: HEARTH_SHUP_IS_OPEN: no such setting, did you mean HEARTH_SHOP_IS_OPEN?",
    ]


def test_variables_that_are_no_settings_are_left_alone() -> None:
    read = {"HEARTH_SERVER_NAME": "y.org", "HEARTH_SHOP_CELLAR_DEPTH_MM": "3", "HEARTH_RATE_LIMITS_LOGIN_BURST": "1"}
    of_clusters = ["HEARTH_PORT", "HEARTH_SERVICE_HOST", "HEARTH_SERVICE_PORT", "HEARTH_PORT_8008_TCP_ADDR"]
    of_tests = ["HEARTH_PEERS", "HEARTH_CRASH_ROUNDS", "HEARTH_FUZZ_SEED", "HEARTH_MODEL_SECONDS", "HEARTH_SPEC"]
    of_tools = ["HEARTH_BENCH", "HEARTH_BENCH_DB", "HEARTH_BENCH_OUT", "HEARTH_REPO", "HEARTH_SYNAPSE_VENV"]
    of_databases = ["HEARTH_TEST_POSTGRES_URL", "HEARTH_POSTGRES_BIN", "HEARTH_SYNAPSE_LOG"]
    others = dict.fromkeys([*of_clusters, *of_tests, *of_tools, *of_databases, "HEARTHSTONE", "PATH"], "1")
    assert parse(NAMED, {**read, **others}).warnings == []


def test_text_that_is_not_toml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^hearth.toml:2: not TOML: "):
        parse(NAMED + "= 3")


def test_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hearth.toml: No such file or directory$"):
        load_config(tmp_path / "hearth.toml", SECTIONS, {})
    (tmp_path / "hearth.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "hearth.toml", SECTIONS, {})


def test_example_is_valid_and_sets_only_what_it_is_told() -> None:
    text = write_example(SECTIONS, {"server_name": "x.org", "shop.is_open": True})
    config = parse(text)
    assert config.section(ShopConfig) == ShopConfig(is_open=True)
    assert config.section(RateLimitsConfig) == RateLimitsConfig()


def uncommented(text: str) -> dict[str, Any]:
    """The example with every setting switched on."""
    lines = [line[2:] if line.startswith("# ") and is_setting(line[2:]) else line for line in text.splitlines()]
    return tomllib.loads("\n".join(lines))


def is_setting(line: str) -> bool:
    return line.startswith("[") or (line.partition(" = ")[0].replace("_", "").isalpha() and " = " in line)


def test_example_holds_every_setting_at_its_default() -> None:
    tables = uncommented(write_example(SECTIONS, {"server_name": "x.org"}))
    assert tables["shop"]["seats"] == 4
    assert tables["shop"]["cellar"]["depth_mm"] == 2000
    assert tables["rate_limits"]["message"]["burst"] == RateLimitsConfig().message.burst
    assert tables["listeners"][0]["port"] == 8008


def test_page_documents_every_setting() -> None:
    page = markdown(SECTIONS)
    assert "| `seats` | a whole number from 1 to 10 | `4` | `HEARTH_SHOP_SEATS` | How many may sit. |" in page
    assert "### [rate_limits.message]" in page
    assert "| `server_name` | a server name such as example.org | required |" in page
    assert LogConfig.__doc__ is not None and LogConfig.__doc__ in page
