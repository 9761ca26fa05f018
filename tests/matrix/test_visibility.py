"""Who sees which event, for all settings of the history visibility."""

from __future__ import annotations

import pytest

from homeserver.matrix.visibility import Sight, can_see, can_server_see, parse_visibility

SETTINGS = ["world_readable", "shared", "invited", "joined"]
OUTSIDE = [None, "leave", "ban", "knock", "invite"]


@pytest.mark.parametrize("membership", [*OUTSIDE, "join"])
def test_1_world_readable_events_are_for_everybody(membership: str | None) -> None:
    assert can_see(Sight("world_readable", membership), joined_later=False)


@pytest.mark.parametrize("visibility", SETTINGS)
def test_2_who_was_in_the_room_sees_the_event(visibility: str) -> None:
    assert can_see(Sight(visibility, "join"), joined_later=False)


@pytest.mark.parametrize("membership", OUTSIDE)
def test_3_shared_events_are_for_those_who_joined_later(membership: str | None) -> None:
    assert can_see(Sight("shared", membership), joined_later=True)
    assert not can_see(Sight("shared", membership), joined_later=False)


@pytest.mark.parametrize("joined_later", [True, False])
def test_4_invited_shows_events_from_the_invitation_on(joined_later: bool) -> None:
    assert can_see(Sight("invited", "invite"), joined_later=joined_later)
    for membership in (None, "leave", "ban", "knock"):
        assert not can_see(Sight("invited", membership), joined_later=joined_later)


@pytest.mark.parametrize("membership", OUTSIDE)
def test_5_joined_hides_what_was_before_the_join(membership: str | None) -> None:
    assert not can_see(Sight("joined", membership), joined_later=True)


@pytest.mark.parametrize("visibility", [*SETTINGS, "nonsense"])
def test_a_value_that_is_not_understood_means_shared(visibility: str) -> None:
    expected = "shared" if visibility == "nonsense" else visibility
    assert parse_visibility({"history_visibility": visibility}) == expected
    assert can_see(Sight("nonsense", None), joined_later=True)


@pytest.mark.parametrize("content", [None, {}, {"history_visibility": None}, {"history_visibility": ["joined"]}])
def test_absent_means_shared(content: dict[str, object] | None) -> None:
    assert parse_visibility(content) == "shared"


@pytest.mark.parametrize(("before", "after"), [("world_readable", "joined"), ("joined", "world_readable")])
def test_a_change_of_visibility_is_seen_if_either_side_allows_it(before: str, after: str) -> None:
    assert can_see(Sight(before, None), Sight(after, None), joined_later=False)
    assert not can_see(Sight("joined", None), Sight("invited", None), joined_later=False)


JOINING: list[tuple[str | None, str]] = [(None, "join"), ("invite", "join"), ("leave", "join")]
LEAVING: list[tuple[str | None, str]] = [
    ("join", "leave"),
    ("join", "ban"),
    ("invite", "leave"),
    ("invite", "ban"),
    ("knock", "leave"),
]


@pytest.mark.parametrize("visibility", SETTINGS)
@pytest.mark.parametrize(("before", "after"), JOINING + LEAVING)
def test_users_see_how_they_came_and_went(visibility: str, before: str | None, after: str) -> None:
    sights = Sight(visibility, before), Sight(visibility, after)
    assert can_see(*sights, joined_later=False, own_membership=True)


@pytest.mark.parametrize(("before", "after"), [("ban", "leave"), ("leave", "ban"), (None, "ban"), (None, "invite")])
def test_users_outside_do_not_see_what_is_done_to_them_there(before: str | None, after: str) -> None:
    sights = Sight("joined", before), Sight("joined", after)
    assert not can_see(*sights, joined_later=False, own_membership=True)


def test_an_invitation_is_seen_where_the_invited_may_see() -> None:
    sights = Sight("invited", None), Sight("invited", "invite")
    assert can_see(*sights, joined_later=False, own_membership=True)


@pytest.mark.parametrize(
    ("visibility", "memberships", "expected"),
    [
        ("world_readable", [], True),
        ("shared", [], True),
        ("invited", ["leave", "invite"], True),
        ("invited", ["leave"], False),
        ("joined", ["invite"], False),
        ("joined", ["leave", "join"], True),
    ],
)
def test_a_server_sees_what_one_of_its_users_may(visibility: str, memberships: list[str], expected: bool) -> None:
    assert can_server_see(visibility, memberships) == expected
