"""How an endpoint is declared: a decorator on a method, read once when the router takes the object.

    class Whoami:
        @endpoint("GET", "/_matrix/client/v3/account/whoami", auth=Auth.GUEST_OK, tag="Account management",
                  spec="client-server-api#get_matrixclientv3accountwhoami")
        async def get_whoami(self, requester: Requester) -> WhoamiResponse: ...

A handler names what it wants: any of `request`, `requester`, `path`, `query`, `body`. The annotations of the
last three say what to parse them into. The OpenAPI document is made from the same declarations.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

from attrs import frozen

JsonObject: TypeAlias = dict[str, Any]
JsonValue: TypeAlias = Any

DEFAULT_MAX_BODY_BYTES: Final = 4 * 1024 * 1024

_CLIENT_V3: Final = "/_matrix/client/v3/"
_CLIENT_R0: Final = "/_matrix/client/r0/"
_ATTRIBUTE: Final = "__hearth_endpoints__"

_Handler = TypeVar("_Handler", bound=Callable[..., Any])


class Auth(Enum):
    """Who may call an endpoint."""

    NONE = "none"  # anybody; a token is not looked at
    USER = "user"  # a registered user's access token
    GUEST_OK = "guest_ok"  # a guest's, too
    OPTIONAL = "optional"  # requester is None without a token; a wrong token is an error
    SERVER = "server"  # another homeserver, by X-Matrix

    @property
    def needs_token(self) -> bool:
        return self is Auth.USER or self is Auth.GUEST_OK


@frozen
class Declaration:
    """What `@endpoint` was told."""

    method: str
    path: str
    auth: Auth
    limit: str | None
    spec: str | None
    tag: str
    resource: str
    aliases: tuple[str, ...]
    optional_body: bool
    max_body_bytes: int
    long_poll: bool
    cancellable: bool
    deprecated: bool
    summary: str | None

    @property
    def paths(self) -> tuple[str, ...]:
        """The path, its r0 twin if it is a v3 path, and the aliases."""
        twins = []
        if self.path.startswith(_CLIENT_V3):
            twins.append(_CLIENT_R0 + self.path[len(_CLIENT_V3) :])
        return tuple(dict.fromkeys((self.path, *twins, *self.aliases)))


def endpoint(
    method: str,
    path: str,
    *,
    auth: Auth,
    limit: str | None = None,
    spec: str | None = None,
    tag: str = "",
    resource: str = "client",
    aliases: tuple[str, ...] = (),
    optional_body: bool = False,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    long_poll: bool = False,
    cancellable: bool | None = None,
    deprecated: bool = False,
    summary: str | None = None,
) -> Callable[[_Handler], _Handler]:
    """Serves the decorated method at `method path`. May be stacked.

    `path` may hold `{name}` for one segment and, at its end, `{name*}` for all that is left.
    `limit` names a kind of the rate limiter. `optional_body`: no body at all counts as `{}`.
    `long_poll`: drop the request's headers while the handler waits.
    `cancellable`: cancel the handler when the client goes away; by default only for GET, since half of a
    change is worse than one whose answer nobody reads.
    """
    declaration = Declaration(
        method=method,
        path=path,
        auth=auth,
        limit=limit,
        spec=spec,
        tag=tag,
        resource=resource,
        aliases=aliases,
        optional_body=optional_body,
        max_body_bytes=max_body_bytes,
        long_poll=long_poll,
        cancellable=method == "GET" if cancellable is None else cancellable,
        deprecated=deprecated,
        summary=summary,
    )

    def decorate(handler: _Handler) -> _Handler:
        setattr(handler, _ATTRIBUTE, (*declarations_of(handler), declaration))
        return handler

    return decorate


def declarations_of(handler: object) -> tuple[Declaration, ...]:
    """What was declared on a method; empty for any other object."""
    declared: tuple[Declaration, ...] = getattr(handler, _ATTRIBUTE, ())
    return declared
