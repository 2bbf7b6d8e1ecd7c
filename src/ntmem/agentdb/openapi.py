"""What the server takes and answers, as OpenAPI 3.1, made of the wire's own structs."""

from __future__ import annotations

from typing import Any

import msgspec

from . import wire

_STRUCTS = (
    *(wire.Create, wire.Insert, wire.BatchInsert, wire.Search, wire.Query),
    *(wire.Health, wire.Created, wire.Inserted, wire.BatchInserted, wire.SearchAnswer, wire.QueryAnswer),
    *(wire.Document, wire.Failure),
)
_SAID = {
    400: "The request says what cannot be: malformed JSON, a wrong value, an unknown field.",
    401: "The token is missing, or another.",
    403: "The server only reads.",
    404: "There is no such collection, document or path.",
    405: "The path does not take this method.",
    408: "The body was not there in time.",
    409: "There is a collection of this name.",
    413: "The body, or the batch, is too large.",
    415: "The body is not application/json.",
    421: "The server is for its own machine, and was asked by another name.",
    503: "The store cannot do it now; the request may be tried again.",
}
_ALWAYS = (401, 405, 421, 503)
_WITH_BODY = (400, 408, 413, 415)


def described(version: str, has_token: bool) -> dict[str, Any]:
    """Return the document. `version` is the server's; `has_token` says whether one has to be known."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header"}}
    schemes["key"]["name"] = "X-API-Key"
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "AgentDB, served by ntmem", "version": version},
        "paths": _paths(),
        "components": {"schemas": components},
    }
    if has_token:
        document["components"]["securitySchemes"] = schemes
        document["security"] = [{name: []} for name in schemes]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _paths() -> dict[str, Any]:
    collection = _parameter("collection", "path", "The collection's name, percent-encoded, '/' too.")
    named = _parameter("id", "path", "The hexadecimal digits of the document's id.")
    named["schema"] |= {"pattern": "^([0-9a-fA-F]{2})+$", "maxLength": 1024}
    form = _parameter("form", "query", "The form of the document; the default has the metadata at top level.")
    form |= {"required": False, "schema": {"const": wire.FORM}}
    of_one = [collection]
    either = {"anyOf": [{"type": "object"}, _reference(wire.Document)]}
    paths: dict[str, Any] = {
        "/health": {"get": _operation("health", "Whether the server is there.", {200: wire.Health})},
        "/openapi.json": {"get": _operation("openapi", "This document.", {200: {"type": "object"}})},
        "/collections": {
            "post": _operation("create", "Make a collection.", {201: wire.Created}, wire.Create, refused=(403, 409))
        },
    }
    for name, said, answers, asked, refused in (
        ("insert", "Add a document, or replace the one of its id.", {201: wire.Inserted}, wire.Insert, (403, 404)),
        ("batch_insert", "Add documents, all or none.", {200: wire.BatchInserted}, wire.BatchInsert, (403, 404)),
        ("search", "Find the nearest documents.", {200: wire.SearchAnswer}, wire.Search, (404,)),
        ("query", "Find documents by their metadata.", {200: wire.QueryAnswer}, wire.Query, (404,)),
    ):
        operation = _operation(name, said, answers, asked, refused=refused)
        paths[f"/collections/{{collection}}/{name}"] = {"post": operation, "parameters": of_one}
    paths["/collections/{collection}/documents/{id}"] = {
        "parameters": [collection, named],
        "get": _operation("document", "One document.", {200: either}, refused=(400, 404)) | {"parameters": [form]},
        "delete": _operation("delete", "Remove a document.", {204: None}, refused=(400, 403, 404)),
    }
    return paths


def _parameter(name: str, place: str, said: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": True,
        "description": said,
        "schema": {"type": "string", "minLength": 1},
    }


def _reference(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _operation(
    name: str,
    said: str,
    answers: dict[int, Any],
    asked: type[msgspec.Struct] | None = None,
    refused: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Return an operation: what it answers where all is well, and with which statuses it may be refused."""
    found: dict[str, Any] = {"operationId": name, "summary": said, "responses": {}}
    statuses = {*refused, *(_ALWAYS if name != "health" else (405, 503)), *(_WITH_BODY if asked is not None else ())}
    for status, what in [*answers.items(), *((status, wire.Failure) for status in sorted(statuses))]:
        answer: dict[str, Any] = {"description": _SAID.get(status, "Done.")}
        if what is not None:
            answer["content"] = _json(what)
        found["responses"][str(status)] = answer
    if asked is not None:
        found["requestBody"] = {"required": True, "content": _json(asked)}
    return found


def _json(what: Any) -> dict[str, Any]:
    return {"application/json": {"schema": what if isinstance(what, dict) else _reference(what)}}
