"""The OpenAPI 3.1 document, made from the endpoint declarations. Imported only when somebody asks for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from homeserver.runtime.http.body import JsonBytes
from homeserver.runtime.http.endpoint import Auth, JsonObject
from homeserver.runtime.http.plan import Plan, evaluate, path_names
from homeserver.runtime.http.response import RawJson, Response

_SPEC_URL: Final = "https://spec.matrix.org/v1.19/"
_TEMPLATE: Final = "#/components/schemas/{name}"
_ERROR_REF: Final = {"$ref": "#/components/schemas/Error"}
_ERROR_SCHEMA: Final = {
    "title": "Error",
    "type": "object",
    "properties": {
        "errcode": {"type": "string", "description": "What went wrong, as M_FORBIDDEN."},
        "error": {"type": "string", "description": "The same for people."},
    },
    "required": ["errcode", "error"],
}
_SCHEMES: Final = {
    "accessToken": {"type": "http", "scheme": "bearer"},
    "accessTokenInQuery": {"type": "apiKey", "in": "query", "name": "access_token"},
    "server": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "X-Matrix"},
}
_SECURITY: Final[dict[Auth, list[dict[str, list[str]]]]] = {
    Auth.NONE: [],
    Auth.USER: [{"accessToken": []}, {"accessTokenInQuery": []}],
    Auth.GUEST_OK: [{"accessToken": []}, {"accessTokenInQuery": []}],
    Auth.OPTIONAL: [{}, {"accessToken": []}, {"accessTokenInQuery": []}],
    Auth.SERVER: [{"server": []}],
}

Json = dict[str, Any]


def build_document(plans: Sequence[Plan], version: str) -> Json:
    """The document of all endpoints; aliases are named at their endpoint and not listed by themselves."""
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    for plan in plans:
        path = plan.template.replace("*}", "}")
        paths.setdefault(path, {})[plan.method.lower()] = _operation(plan, schemas)
    components = schemas.fill_in()
    tags = list(dict.fromkeys(plan.declaration.tag for plan in plans if plan.declaration.tag))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hearth", "version": version or "0", "summary": "What this server answers to."},
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR_SCHEMA, **components},
            "securitySchemes": _SCHEMES,
        },
    }


class _Schemas:
    """JSON schemas of Python types; structs become components.

    Several modules have a struct of one name, such as InviteBody. Only who sees all of them at once names them apart; so a
    schema is empty until `fill_in` is called.
    """

    def __init__(self) -> None:
        self._asked: list[tuple[Any, Json]] = []

    def of(self, annotation: Any) -> Json:
        """The schema of a type; what has none may be anything."""
        schema: Json = {}
        with suppress(TypeError):
            msgspec.json.schema_components([annotation])
            self._asked.append((annotation, schema))
        return schema

    def fill_in(self) -> dict[str, Json]:
        """Complete the schemas that were given out; their components."""
        annotations = [annotation for annotation, _ in self._asked]
        made, components = msgspec.json.schema_components(annotations, ref_template=_TEMPLATE)
        for (_, schema), found in zip(self._asked, made, strict=True):
            schema.update(found)
        return components

    def properties(self, struct: type) -> tuple[dict[str, Json], set[str]]:
        """The schema of each field of a struct of plain values, and the names of the required ones."""
        _, components = msgspec.json.schema_components([struct])
        (own,) = components.values()
        return own["properties"], set(own.get("required", ()))


def _operation(plan: Plan, schemas: _Schemas) -> Json:
    declaration = plan.declaration
    summary, description = _texts(plan)
    operation: Json = {
        "operationId": _operation_id(plan),
        "summary": summary,
        "parameters": _parameters(plan, schemas),
        "responses": _responses(plan, schemas),
        "security": _SECURITY[declaration.auth],
        "x-resource": declaration.resource,
    }
    optional: Json = {
        "description": description,
        "tags": [declaration.tag] if declaration.tag else None,
        "requestBody": _request_body(plan, schemas),
        "deprecated": declaration.deprecated,
        "x-rate-limit": declaration.limit,
        "x-guests": declaration.auth is Auth.GUEST_OK,
        "x-aliases": list(declaration.paths[1:]),
        "externalDocs": {"url": spec_url(declaration.spec)} if declaration.spec else None,
    }
    operation.update({name: value for name, value in optional.items() if value})
    return operation


def spec_url(section: str) -> str:
    """The page of "client-server-api#whoami"."""
    page, _, anchor = section.partition("#")
    return f"{_SPEC_URL}{page}/#{anchor}" if anchor else f"{_SPEC_URL}{page}/"


def _operation_id(plan: Plan) -> str:
    """Unique, since method and path are."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", plan.template).strip("_")
    return f"{plan.method.lower()}_{words}"


def _texts(plan: Plan) -> tuple[str, str]:
    """The first line of the handler's docstring, and the rest without the lines meant for readers of the code."""
    text = inspect.getdoc(plan.call) or ""
    summary, _, rest = text.partition("\n")
    kept = [line for line in rest.strip().splitlines() if not line.startswith(("Raises:", "Spec:"))]
    fallback = getattr(plan.call, "__name__", "").replace("_", " ")
    return plan.declaration.summary or summary or fallback, "\n".join(kept).strip()


def _parameters(plan: Plan, schemas: _Schemas) -> list[Json]:
    parameters: list[Json] = []
    path_schemas = schemas.properties(plan.path_type)[0] if plan.path_type is not None else {}
    for name in path_names(plan.template):
        schema = path_schemas.get(name, {"type": "string"})
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if plan.query_type is not None:
        properties, required = schemas.properties(plan.query_type)
        for name, schema in properties.items():
            parameter = {"name": name, "in": "query", "required": name in required, "schema": schema}
            if "description" in schema:
                parameter["description"] = schema["description"]
            parameters.append(parameter)
    return parameters


def _request_body(plan: Plan, schemas: _Schemas) -> Json | None:
    if plan.body_type is None:
        return None
    required = not plan.declaration.optional_body
    if plan.spools or plan.body_type is bytes:
        return {"required": required, "content": {"application/octet-stream": {}}}
    body_type = JsonObject if plan.body_type is JsonBytes else plan.body_type
    return {"required": required, "content": _json_content(schemas.of(body_type))}


def _limit(plan: Plan) -> str:
    return "this server takes" if plan.spools else f"{plan.declaration.max_body_bytes} bytes"


def _responses(plan: Plan, schemas: _Schemas) -> Json:
    declaration = plan.declaration
    responses: Json = {"200": _success(plan, schemas)}
    takes_input = bool(path_names(plan.template)) or plan.query_type is not None or plan.body_type is not None
    errors = {
        "400": ("A parameter or the body is missing or wrong.", takes_input),
        "401": ("The access token is missing or unknown.", declaration.auth is not Auth.NONE),
        "403": ("Not allowed.", declaration.auth is not Auth.NONE),
        "413": (f"The body is larger than {_limit(plan)}.", plan.body_type is not None),
        "429": ("Too many requests; Retry-After says when to come back.", declaration.limit is not None),
        "default": ("Any other error.", True),
    }
    for status, (text, applies) in errors.items():
        if applies:
            responses[status] = {"description": text, "content": _json_content(_ERROR_REF)}
    return responses


def _success(plan: Plan, schemas: _Schemas) -> Json:
    annotation = _return_type(plan)
    if annotation is Response:
        return {"description": "Success."}
    schema = {"type": "object"} if annotation in (None, RawJson) else schemas.of(annotation)
    return {"description": "Success.", "content": _json_content(schema)}


def _return_type(plan: Plan) -> Any:
    """None where the handler doesn't say, or says it with a name that is imported for type checking only."""
    try:
        return evaluate(plan.call, plan.call.__annotations__.get("return"))
    except NameError:
        return None


def _json_content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def operations(document: Json) -> Iterable[tuple[str, str, Json]]:
    """Method, path and operation of everything in a document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation
