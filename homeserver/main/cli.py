"""The command line.

    hearth run [--config FILE]           start the server; without a file, ./hearth-data/hearth.toml is made
    hearth install [--config FILE]       write configuration and key, and set up the database
    hearth config check|example|docs     check the configuration; print an example; print the docs page
    hearth user add|password|admin|deactivate NAME
    hearth db upgrade                    bring the database's schema up to date
    hearth doctor [SERVER]               what keeps servers from talking (cli_federation.py)
    hearth keys show|rotate              the signing keys (cli_federation.py)
    hearth room list|show|repair|purge   what admins need of rooms (cli_rooms.py)
    hearth version

Errors of the configuration are one line and exit code 1.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from homeserver.main.cli_federation import add_federation_commands
from homeserver.main.cli_rooms import add_room_commands
from homeserver.main.version import VERSION
from homeserver.matrix.errors import MatrixError
from homeserver.runtime.config import Config, ConfigError

DEFAULT_CONFIG = Path("hearth-data/hearth.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (ConfigError, MatrixError) as error:
        print(f"hearth: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hearth", description="A federated, self-hostable Matrix homeserver.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "run", _run, "start the server")
    _add(commands, "install", _install, "write configuration and key, set up the database")
    _add(commands, "version", _version, "print the version", config=False)
    config = commands.add_parser("config", help="about the configuration").add_subparsers(required=True)
    _add(config, "check", _config_check, "check the configuration")
    _add(config, "example", _config_example, "print a commented example", config=False)
    _add(config, "docs", _config_docs, "print the documentation as Markdown", config=False)
    database = commands.add_parser("db", help="about the database").add_subparsers(required=True)
    _add(database, "upgrade", _db_upgrade, "bring the schema up to date")
    _add_user_commands(commands.add_parser("user", help="about accounts").add_subparsers(required=True))
    add_federation_commands(commands, _add, _load)
    add_room_commands(commands, _add, _load)
    return parser


def _add(commands: Any, name: str, run: Callable[..., int], help: str, *, config: bool = True) -> Any:
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=run)
    if config:
        parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
    return parser


def _add_user_commands(users: Any) -> None:
    add = _add(users, "add", _user_add, "make an account")
    add.add_argument("--admin", action="store_true", help="make it an admin's")
    password = _add(users, "password", _user_password, "set an account's password")
    password.add_argument("--keep-devices", action="store_true", help="don't log the user out")
    admin = _add(users, "admin", _user_admin, "make an account an admin's")
    admin.add_argument("--remove", action="store_true", help="take the rights away")
    deactivate = _add(users, "deactivate", _user_deactivate, "close an account for good")
    deactivate.add_argument("--erase", action="store_true", help="hide the user's messages from newcomers")
    for parser in (add, password, admin, deactivate):
        parser.add_argument("name", help="localpart or user id")
    for parser in (add, password):
        parser.add_argument("--password", help="asked for when it is not given")


# -- the commands --------------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from homeserver.main.configuration import load, load_or_make
    from homeserver.main.process import run

    config = load_or_make(arguments.config, is_default=arguments.config == DEFAULT_CONFIG)
    return run(config, lambda: load(arguments.config))


def _install(arguments: argparse.Namespace) -> int:
    from homeserver.main.configuration import load_or_make
    from homeserver.main.keys import load_signing_key
    from homeserver.runtime.config import ServerConfig

    config = load_or_make(arguments.config, is_default=True)
    _prepare_database(config)
    load_signing_key(config.resolve(config.section(ServerConfig).signing_key_file))
    print(f"Installed: {arguments.config}")
    return 0


def _version(_arguments: argparse.Namespace) -> int:
    print(f"hearth {VERSION}")
    return 0


def _config_check(arguments: argparse.Namespace) -> int:
    for warning in _load(arguments).warnings:
        print(warning, file=sys.stderr)
    print(f"{arguments.config}: no errors")
    return 0


def _config_example(_arguments: argparse.Namespace) -> int:
    from homeserver.main.configuration import example

    print(example("example.org"), end="")
    return 0


def _config_docs(_arguments: argparse.Namespace) -> int:
    from homeserver.main.sections import SECTIONS
    from homeserver.runtime.config_docs import markdown

    print(markdown(SECTIONS), end="")
    return 0


def _db_upgrade(arguments: argparse.Namespace) -> int:
    _prepare_database(_load(arguments))
    print("The database is up to date.")
    return 0


def _user_add(arguments: argparse.Namespace) -> int:
    password = _password(arguments)
    return _with_services(
        arguments, lambda s: s.commands.add_user(arguments.name, password, is_admin=arguments.admin), "Made"
    )


def _user_password(arguments: argparse.Namespace) -> int:
    password, log_out = _password(arguments), not arguments.keep_devices
    return _with_services(
        arguments,
        lambda s: s.commands.set_password(arguments.name, password, log_out=log_out),
        "Changed the password of",
    )


def _user_admin(arguments: argparse.Namespace) -> int:
    return _with_services(arguments, lambda s: s.commands.set_admin(arguments.name, not arguments.remove), "Changed")


def _user_deactivate(arguments: argparse.Namespace) -> int:
    return _with_services(
        arguments, lambda s: s.commands.deactivate(arguments.name, erase=arguments.erase), "Deactivated"
    )


# -- what they share -----------------------------------------------------------------------------------------------------


def _load(arguments: argparse.Namespace) -> Config:
    from homeserver.main.configuration import load

    return load(arguments.config)


def _prepare_database(config: Config) -> None:
    from homeserver.main.database import prepare_data_dir, upgrade_schema

    prepare_data_dir(config)
    upgrade_schema(config)


def _password(arguments: argparse.Namespace) -> str:
    if arguments.password is not None:
        return str(arguments.password)
    password = getpass.getpass("Password: ")
    if password != getpass.getpass("Again: "):
        raise ConfigError("the passwords are not the same")
    return password


def _with_services(arguments: argparse.Namespace, act: Callable[[Any], Awaitable[object]], done: str) -> int:
    from homeserver.main.process import run_once

    print(f"{done} {run_once(_load(arguments), act)}")
    return 0
