"""The OpenAPI document and the page that reads it."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
import pytest

from homeserver.runtime.http.docs_page import DocsPage
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import Response
from homeserver.runtime.http.router import Router
from tests.runtime.conftest import Serve


class ThingPath(msgspec.Struct):
    thing_id: str


class ThingQuery(msgspec.Struct):
    at: str
    limit: Annotated[int, msgspec.Meta(ge=1, description="How many.")] = 10


class Part(msgspec.Struct):
    size: int


class Thing(msgspec.Struct):
    name: str
    parts: list[Part] = []


class Things:
    @endpoint(
        "PUT",
        "/_matrix/client/v3/things/{thing_id}",
        auth=Auth.GUEST_OK,
        limit="message",
        tag="Things",
        spec="client-server-api#rate-limiting",
        max_body_bytes=1000,
    )
    async def put_thing(self, path: ThingPath, query: ThingQuery, body: Thing) -> Thing:
        """Changes a thing.

        All of it at once.
        Raises: NotFound.
        """
        return body

    @endpoint("GET", "/things/{rest*}", auth=Auth.NONE)
    async def get_rest(self) -> Response:
        return Response()

    @endpoint("POST", "/things", auth=Auth.OPTIONAL, optional_body=True, deprecated=True)
    async def post_things(self, body: JsonObject) -> Unknown:  # type: ignore[name-defined]  # noqa: F821 on purpose
        return body


@pytest.fixture
def document() -> dict[str, Any]:
    router = Router()
    router.add(Things())
    return router.openapi("1.2")


class Parcels:
    class Thing(msgspec.Struct):
        weight: int

    @endpoint("POST", "/parcels", auth=Auth.NONE)
    async def post_parcels(self, body: Parcels.Thing) -> None: ...


def test_structs_of_one_name_are_kept_apart() -> None:
    router = Router()
    router.add(Things())
    router.add(Parcels())
    document = router.openapi("1.2")
    schemas = [
        document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for path, method in (("/_matrix/client/v3/things/{thing_id}", "put"), ("/parcels", "post"))
    ]
    found = [document["components"]["schemas"][schema.rpartition("/")[2]]["properties"] for schema in schemas]
    assert [set(properties) for properties in found] == [{"name", "parts"}, {"weight"}]


def test_operation_is_made_from_its_declaration(document: dict[str, Any]) -> None:
    operation = document["paths"]["/_matrix/client/v3/things/{thing_id}"]["put"]
    assert (operation["summary"], operation["description"]) == ("Changes a thing.", "All of it at once.")
    assert operation["tags"] == ["Things"]
    assert operation["x-rate-limit"] == "message"
    assert operation["x-aliases"] == ["/_matrix/client/r0/things/{thing_id}"]
    assert operation["externalDocs"]["url"] == "https://spec.matrix.org/v1.19/client-server-api/#rate-limiting"
    assert {"accessToken": []} in operation["security"]


def test_parameters_have_their_schemas(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/_matrix/client/v3/things/{thing_id}"]["put"]["parameters"]
    by_name = {parameter["name"]: parameter for parameter in parameters}
    assert (by_name["thing_id"]["in"], by_name["thing_id"]["required"]) == ("path", True)
    assert (by_name["at"]["in"], by_name["at"]["required"]) == ("query", True)
    assert by_name["limit"]["schema"]["minimum"] == 1
    assert by_name["limit"]["description"] == "How many."


def test_bodies_refer_to_components(document: dict[str, Any]) -> None:
    operation = document["paths"]["/_matrix/client/v3/things/{thing_id}"]["put"]
    reference = {"$ref": "#/components/schemas/Thing"}
    assert operation["requestBody"]["content"]["application/json"]["schema"] == reference
    assert operation["responses"]["200"]["content"]["application/json"]["schema"] == reference
    schemas = document["components"]["schemas"]
    assert schemas["Thing"]["required"] == ["name"]
    assert "Part" in schemas
    assert "ThingPath" not in schemas


def test_errors_that_can_happen_are_listed(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert set(paths["/_matrix/client/v3/things/{thing_id}"]["put"]["responses"]) == {
        "200", "400", "401", "403", "413", "429", "default",
    }  # fmt: skip
    assert set(paths["/things/{rest}"]["get"]["responses"]) == {"200", "400", "default"}


def test_annotation_that_only_type_checkers_see_is_no_obstacle(document: dict[str, Any]) -> None:
    operation = document["paths"]["/things"]["post"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"] == {"type": "object"}
    assert operation["requestBody"]["required"] is False
    assert operation["deprecated"] is True


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = re.findall(r"#/components/schemas/(\w+)", str(document))
    assert names
    assert set(names) <= set(document["components"]["schemas"])


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_page_loads_nothing_from_elsewhere(serve: Serve) -> None:
    router = Router()
    served = serve(DocsPage(router, "1"), Things())
    page = served.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    sources = re.findall(r'(?:src|href)="([^"]*)"', page.body.decode())
    assert sources
    for source in sources:
        assert source.startswith(("/docs/", "#")), source
        if source.startswith("/docs/"):
            assert served.get(source).status == 200
    assert b"<script>" not in page.body
    assert b"style=" not in page.body


def test_document_is_served(serve: Serve) -> None:
    router = Router()
    router.add(Things())
    served = serve(DocsPage(router, "7.1"))
    assert served.get("/docs/openapi.json").json["info"]["version"] == "7.1"


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        ("def get(self, whatever: int) -> None: ...", "no parameter 'whatever'"),
        ("def get(self, query) -> None: ...", "no annotation"),
        ("def get(self, query: dict) -> None: ...", "must be annotated with a msgspec.Struct"),
        ("def get(self, path: Empty) -> None: ...", "the path"),
    ],
)
def test_declaration_that_cannot_be_served_is_refused(handler: str, message: str) -> None:
    namespace = {"endpoint": endpoint, "Auth": Auth, "Empty": msgspec.defstruct("Empty", [])}
    exec(f"class Wrong:\n  @endpoint('GET', '/a/{{b}}', auth=Auth.NONE)\n  {handler}", namespace)
    wrong: Any = namespace["Wrong"]
    with pytest.raises(TypeError, match=message):
        Router().add(wrong())


def test_path_declared_twice_is_refused() -> None:
    router = Router()
    router.add(Things())
    with pytest.raises(ValueError, match="declared twice"):
        router.add(Things())
