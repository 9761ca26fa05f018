"""What HTTP does not show: caches against the log, bounds, hashes, the commands of the CLI."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.accounts.errors import UserInUse
from homeserver.accounts.folded_cache import FoldedCache
from homeserver.accounts.limits import shorten
from homeserver.accounts.passwords import PasswordHashes
from homeserver.accounts.tokens import ACCESS, hash_token, is_garbled, new_token
from homeserver.accounts.usernames import login_candidates
from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.ids import ServerName, UserId
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.router import Router
from homeserver.runtime.http.site import App, Site
from homeserver.store.access_tokens import load_token_owner
from tests.accounts.harness import AccountsServer, exchange
from tests.kit.specification import SPECIFICATION, NotAsSpecified


class WrongVersions:
    @endpoint("GET", "/_matrix/client/versions", auth=Auth.NONE, tag="", spec="client-server-api#api-versions")
    def get_versions(self) -> JsonObject:
        return {"versions": "v1.18"}


@pytest.mark.skipif(not SPECIFICATION.is_present, reason=f"{SPECIFICATION.file} is absent")
def test_the_harness_refuses_answers_that_are_not_as_specified(server: AccountsServer) -> None:
    router = Router()
    router.add(WrongVersions())
    site = Site(App(server.pump, router, server.access, None))
    with pytest.raises(NotAsSpecified, match="client/versions"):
        exchange(site, server.pump, ["GET /_matrix/client/versions?a=b HTTP/1.1", "Host: x"], b"")


def test_a_load_that_began_before_a_change_is_not_kept() -> None:
    cache: FoldedCache[str, int] = FoldedCache(10)
    version = cache.version
    cache.drop("key")
    cache.put("key", 1, version)
    assert cache.get("key") is None


def test_the_least_recently_used_entry_falls_out() -> None:
    cache: FoldedCache[str, int] = FoldedCache(2)
    cache.put("a", 1, 0)
    cache.put("b", 2, 0)
    cache.get("a")
    assert cache.put("c", 3, 0) == ("b", 2)


def test_a_hot_token_is_answered_from_memory(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    assert server.access.get_requester(token) is None
    loaded = server.wait(server.access.load_requester(token))
    assert server.access.get_requester(token) is loaded


def test_tokens_are_not_stored_in_clear(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    assert server.wait(server.database.read(load_token_owner, token.encode())) is None
    assert server.wait(server.database.read(load_token_owner, hash_token(token))) is not None


def test_garbled_tokens_are_recognised() -> None:
    token = new_token(ACCESS)
    assert not is_garbled(token)
    assert is_garbled(token[:-1] + ("0" if token[-1] != "0" else "1"))
    assert not is_garbled("syt_imported")


@given(st.text())
def test_any_text_is_hashed_and_judged(text: str) -> None:
    assert len(hash_token(text)) == 32
    is_garbled(text)
    login_candidates(text, ServerName("test.example"))
    assert len(shorten(text, 10).encode()) <= 10


def test_two_registrations_of_one_name_give_one_user(server: AccountsServer) -> None:
    one = server.commands.add_user("alice", "pw")
    assert server.wait(one) == "@alice:test.example"
    with pytest.raises(UserInUse):
        server.wait(server.commands.add_user("alice", "pw"))


def test_the_race_for_a_name_is_decided_by_the_database(server: AccountsServer) -> None:
    from twisted.internet.defer import Deferred

    from homeserver.accounts.creation import NewAccount

    account = NewAccount(server.wait(server.commands.add_user("first", "pw")), "pw")
    race = Deferred.fromCoroutine(server.creator.create(account))
    with pytest.raises(UserInUse):
        server.wait(race)
    assert server.login("first", "pw").status == 200


def test_commands(server: AccountsServer) -> None:
    commands = server.commands
    server.wait(commands.add_user("@root:test.example", "pw", is_admin=True))
    assert server.login("root", "pw").status == 200
    server.wait(commands.set_password("ROOT", "new"))
    assert server.login("root", "new").status == 200
    server.wait(commands.set_admin("root", False))
    assert not server.wait(server.accounts.load_user(UserId("@root:test.example"))).is_admin
    server.wait(commands.deactivate("root"))
    assert server.login("root", "new").status == 403
    with pytest.raises(NotFound):
        server.wait(commands.deactivate("nobody"))
    with pytest.raises(InvalidParam):
        server.wait(commands.set_password("@x:elsewhere", "pw"))


def test_nobodys_password_is_never_right(server: AccountsServer) -> None:
    assert not server.wait(server.hashes.verify("", None))
    assert not server.wait(server.hashes.verify("x", "not a hash"))


def test_production_hashes_are_made_in_threads(server: AccountsServer) -> None:
    hashes = PasswordHashes(server.pump, "production")  # type: ignore[arg-type]
    hashes.start()
    known = server.wait(hashes.hash("pw"))
    assert server.wait(hashes.verify("pw", known)) and not server.wait(hashes.verify("no", known))
    hashes.stop()
    assert server.hashes.needs_rehash(known)
