"""Commands about federation.

hearth doctor [SERVER]               what is wrong with this server, or another one, as other servers see it
hearth keys show                     the ids of the signing keys
hearth keys rotate                   sign with a new key from the next start on
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from homeserver.runtime.config import Config, ServerConfig

if TYPE_CHECKING:
    from federation.doctor import Finding

Add = Callable[..., Any]
Load = Callable[[argparse.Namespace], Config]

_COLOURS = {"ok": "32", "note": "36", "warning": "33", "wrong": "31"}


def add_federation_commands(commands: Any, add: Add, load: Load) -> None:
    """`add(commands, name, run, help)` adds one, `load` reads its configuration."""
    doctor = add(commands, "doctor", lambda arguments: _doctor(arguments, load), "say what keeps servers from talking")
    doctor.add_argument("server", nargs="?", help="a server name; without it, this server")
    keys = commands.add_parser("keys", help="about the signing keys").add_subparsers(required=True)
    add(keys, "show", lambda arguments: _show(load(arguments)), "list the signing keys")
    add(keys, "rotate", lambda arguments: _rotate(load(arguments)), "make a new key, to sign with after a restart")


def _doctor(arguments: argparse.Namespace, load: Load) -> int:
    from homeserver.main.doctor import examine
    from homeserver.main.process import run_alone

    config = _load_or_defaults(arguments, load)
    findings: Any = run_alone(lambda reactor: examine(config, reactor, arguments.server))
    print(arguments.server or config.section(ServerConfig).server_name)
    for finding in findings:
        print(_line(finding))
    return _conclude(findings)


def _load_or_defaults(arguments: argparse.Namespace, load: Load) -> Config:
    """Other servers can be looked at from a machine that has none."""
    if arguments.server is None or arguments.config.exists():
        return load(arguments)
    from homeserver.main.sections import SECTIONS
    from homeserver.runtime.config import parse_config

    return parse_config('server_name = "localhost"', arguments.config, SECTIONS, os.environ)


def _line(finding: Finding) -> str:
    word = finding.level.value
    shown = f"{word:<8}"
    if sys.stdout.isatty():
        shown = f"\x1b[{_COLOURS[word]}m{shown}\x1b[0m"
    # What other servers say must not move the cursor.
    text = "".join(character if character.isprintable() else "?" for character in finding.text)
    return f"  {shown} {finding.topic}: {text}"


def _conclude(findings: list[Finding]) -> int:
    from federation.doctor import is_well

    if is_well(findings):
        print("Nothing is wrong.")
        return 0
    print("Something is wrong: see above.")
    return 1


def _show(config: Config) -> int:
    from homeserver.main.keys import load_signing_keys

    first, *others = load_signing_keys(_key_file(config))
    print(f"{first.key_id}  {first.verify_key.to_base64()}  signs")
    for key in others:
        print(f"{key.key_id}  {key.verify_key.to_base64()}  old")
    return 0


def _rotate(config: Config) -> int:
    from homeserver.main.keys import rotate_signing_key

    path = _key_file(config)
    new, before = rotate_signing_key(path)
    print(f"{new.key_id} signs from the next start of the server on; a running server goes on with {before.key_id}.")
    print(f"Restart it now. Other servers are then told that {before.key_id} is old. Keep a copy of {path}.")
    return 0


def _key_file(config: Config) -> Any:
    return config.resolve(config.section(ServerConfig).signing_key_file)
