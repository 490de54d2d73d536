"""Makes /schema as strict as the checks of the routes.

The framework describes types only. The tables here add what the routes check beyond them: patterns of ids, headers and
cursors, and which JSON can be stored. What a schema cannot say, such as that `from` is before `to`, is left to the
problem document.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import product
from typing import Any

from litestar.connection import Request
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import BaseRoute, HTTPRoute

from api.http.authentication import AUTHENTICATED, PUBLIC, SCOPE
from api.http.feed_cursor import MAX_CURSOR_CHARACTERS
from api.schemas.requests import MAX_NAMES, Body
from domain.application.replay.report import MAX_REPLAYED_THREADS
from domain.ids import MAX_VERSION
from domain.json import MAX_INTEGER, MIN_INTEGER
from domain.thread.events import EVENTS
from projections.registry import PROJECTIONS
from projections.threads import OUTCOMES, REASONS
from projections.turn_list import TURN_STATES

Schema = dict[str, Any]

TEXT = "^[^\\u0000]*$"
"""Any text that can be stored."""

CHECKPOINT = "[1-9][0-9]{0,17}-[0-9a-f]{8}"
UUID_TEXT = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def _some_of(names: Iterable[str]) -> Schema:
    """Names separated by commas."""
    one = f"({'|'.join(names)})"
    return {"type": "string", "pattern": f"^({one}(,{one})*)?$"}


TENANT_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9][a-z0-9_.-]{0,62}$"}
_KEY_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[^\\u0000-\\u001f\\u007f]+$"}
_VISIBLE: Schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
_TEXT: Schema = {"type": "string", "pattern": TEXT}
_TEXTS = ("actor", "correlation", "graph", "model", "node", "reason", "search", "subject", "title", "tool")
_VERSION: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_VERSION}
_ID: Schema = {"type": "string", "format": "uuid"}

PARAMETERS: Mapping[tuple[str, str], Schema] = {
    **dict.fromkeys(product(["header"], ["X-Actor", "X-Correlation-ID", "Idempotency-Key"]), _VISIBLE),
    ("header", "If-Match"): {"type": "string", "pattern": f'^(\\*|"{CHECKPOINT}")$'},
    ("header", "Last-Event-ID"): {"type": "string", "pattern": "^[0-9]{0,10}$"},
    **dict.fromkeys([("path", "thread_id"), ("path", "turn_id"), ("query", "thread_id"), ("query", "command")], _ID),
    ("path", "approval_id"): {"type": "string", "pattern": "^[0-9]{1,9}$"},
    ("path", "version"): {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
    ("path", "number"): {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
    ("path", "key_id"): {"type": "string", "pattern": "^[0-9A-Za-z]{1,40}$"},
    **dict.fromkeys([("path", "tenant"), ("query", "tenant")], TENANT_NAME),
    ("path", "name"): {"type": "string", "minLength": 1, "pattern": "^[^/\\u0000]+$"},
    ("query", "cursor"): {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    ("query", "at_version"): _VERSION,
    ("query", "slices"): {"type": "string", "pattern": "^[0-9]{1,4}(-[0-9]{1,4})?$"},
    ("query", "types"): _some_of(event.__name__ for event in EVENTS),
    **dict.fromkeys(product(["query"], _TEXTS), _TEXT),
}
"""Schemas of parameters on every path."""

TURN_LISTS = ("/v1/turns", "/v1/threads/{thread_id}/turns")
ON_PATH: Mapping[tuple[str, str], Schema] = {
    ("/v1/threads", "status"): _some_of(("idle", "running", "waiting")),
    ("/v1/threads", "outcome"): _some_of(OUTCOMES),
    ("/v1/threads", "reason"): _some_of(REASONS),
    **dict.fromkeys(product(TURN_LISTS, ["outcome"]), _some_of(TURN_STATES)),
    **dict.fromkeys(product(TURN_LISTS, ["reason"]), _some_of(REASONS)),
    ("/v1/usage", "group_by"): _some_of(("graph", "node", "model")),
    ("/v1/analytics/{subject}", "group_by"): _some_of(("graph", "node", "tool", "reason")),
    ("/v1/budgets", "group_by"): _some_of(("thread_id", "model")),
    ("/v1/feed", "after"): {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": MAX_CURSOR_CHARACTERS},
    ("/v1/threads/{thread_id}/diff", "from"): {"type": "integer", "minimum": 0, "maximum": MAX_VERSION},
    ("/v1/threads/{thread_id}/diff", "to"): _VERSION,
}
"""Schemas of parameters on one path, where the same name has another schema elsewhere."""

LISTS_WITH_VERSION = ("/v1/threads", *TURN_LISTS, "/v1/usage", "/v1/analytics/{subject}", "/v1/budgets", "/v1/audit")
VERSION_SEEN: Schema = {"type": "string", "pattern": f"^{UUID_TEXT}:[0-9]{{1,9}}$"}

_REF_JSON: Schema = {"$ref": "#/components/schemas/Json"}
_MEMBERS: Schema = {"propertyNames": {"pattern": TEXT}, "additionalProperties": _REF_JSON}
JSON_VALUE: Schema = {
    "description": "Any JSON that can be stored: no NUL, and integers of 64 bits.",
    # One schema for all types: with several alternatives, some tools reject a value that matches only one of them.
    "type": ["null", "boolean", "number", "string", "array", "object"],
    "not": {"type": "integer", "anyOf": [{"exclusiveMaximum": MIN_INTEGER}, {"exclusiveMinimum": MAX_INTEGER}]},
    "pattern": TEXT,
    "items": _REF_JSON,
    **_MEMBERS,
}
JSON_OBJECT: Schema = {"type": "object", **_MEMBERS}
_OBJECT: Schema = {"$ref": "#/components/schemas/JsonObject"}
_OBJECT_OR_NULL: Schema = {"oneOf": [_OBJECT, {"type": "null"}]}
_REF_OR_NULL: Schema = {"type": ["string", "null"], "pattern": f"^{CHECKPOINT}$"}
_SPENT: Schema = {
    "anyOf": [{"required": [name], "properties": {name: {"type": "number"}}} for name in ("tokens", "cost_usd")]
}

_SETTLED: Schema = {
    "if": {"properties": {"decision": {"const": "settle"}}, "required": ["decision"]},
    "then": {"properties": {"result": {"type": "string"}}, "required": ["result"]},
    "else": {"properties": {"result": {"type": "null"}}},
}
"""Requires a result with `settle`, and allows it with nothing else."""

_THREADS_OR_FILTER: Schema = {
    "oneOf": [
        {"required": [name], "properties": {name: {"type": kind}}}
        for name, kind in (("threads", "array"), ("filter", "object"))
    ]
}

BODIES: Mapping[tuple[str, str], Schema] = {
    **dict.fromkeys(product(["Invoke", "StartTurn", "UpdateValues", "SetBudget"], ["checkpoint_ref"]), _REF_OR_NULL),
    ("OpenThread", "values"): _OBJECT,
    ("Invoke", "values"): _OBJECT_OR_NULL,
    ("Output", "schema"): _OBJECT,
    ("Output", "name"): {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
    ("CreateKey", "name"): _KEY_NAME,
    ("CreateKey", "principal"): {**_KEY_NAME, "type": ["string", "null"]},
    ("CreateKey", "tenant"): {**TENANT_NAME, "type": ["string", "null"]},
    ("UpdateValues", "values"): _OBJECT,
    ("ForkThread", "values"): _OBJECT_OR_NULL,
    ("Decide", "arguments"): _OBJECT_OR_NULL,
    ("CreateTenant", "name"): TENANT_NAME,
    ("ForkThread", "at_version"): {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_VERSION},
    ("MessageEdit", "version"): _VERSION,
    ("ReplayThreads", "threads"): {
        "type": ["array", "null"],
        "items": _ID,
        "minItems": 1,
        "maxItems": MAX_REPLAYED_THREADS,
    },
    ("ReplayFilter", "graph"): {"type": ["string", "null"], "pattern": TEXT},  # also one that is no longer registered
    ("ReplayFilter", "reason"): {"type": "array", "maxItems": MAX_NAMES, "items": {"type": "string", "enum": REASONS}},
    ("Rebuild", "projections"): {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "enum": [projection.name for projection in PROJECTIONS]},
    },
}
"""Schemas of fields of bodies, in addition to the framework's."""

SECURITY_SCHEMES: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of the OIDC issuer."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}


def scopes_of_routes(routes: Iterable[BaseRoute]) -> Mapping[tuple[str, str], str]:
    """Return what each operation takes, by its path and method: a scope, `authenticated`, or `public`."""
    return {
        (route.path_format, method.lower()): handler.opt[SCOPE]
        for route in routes
        if isinstance(route, HTTPRoute)
        for method, handler in (
            (str(method), handler) for handler in route.route_handlers for method in handler.http_methods
        )
        if SCOPE in handler.opt
    }


def tightened(schema: Schema, graphs: Collection[str], scopes: Mapping[tuple[str, str], str]) -> Schema:
    """Make a schema as strict as the routes. `graphs` are the names of the agents."""
    schema["components"]["securitySchemes"] = SECURITY_SCHEMES
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _secure(operation, scopes[path, method])
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _parameter(path, parameter)
    components = schema["components"]["schemas"]
    components |= {"Json": JSON_VALUE, "JsonObject": JSON_OBJECT}
    for name in (body.__name__ for body in Body.__subclasses__()):
        body = components[name]  # a request's: it allows no other fields
        body["additionalProperties"] = False
        for field, given in body["properties"].items():
            body["properties"][field] = _field(name, field, given, graphs)
    components["LimitBody"] |= _SPENT
    components["ReplayThreads"] |= _THREADS_OR_FILTER
    components["Decide"] |= {"allOf": [_only_with("arguments", "grant"), _only_with("reason", "deny"), _SETTLED]}
    return schema


def _secure(operation: Schema, scope: str) -> None:
    """Say what an operation takes."""
    needed = {PUBLIC: "No key is needed.", AUTHENTICATED: "Any key will do."}.get(scope, f"Scope: {scope}.")
    operation["description"] = f"{operation['description']}\n\n{needed}"
    roles = [] if scope == AUTHENTICATED else [scope]
    operation["security"] = [] if scope == PUBLIC else [{name: roles} for name in SECURITY_SCHEMES]


def _parameter(path: str, parameter: Schema) -> Schema:
    name, given = parameter["name"], _without_null(parameter["schema"])
    if name == "min_version" and path in LISTS_WITH_VERSION:
        return {**_told(given), **VERSION_SEEN}
    exact = ON_PATH.get((path, name)) or PARAMETERS.get((parameter["in"], name))
    if exact is None:
        return given
    return {**_told(given), **exact}


def _field(body: str, field: str, given: Schema, graphs: Collection[str]) -> Schema:
    found = BODIES.get((body, field))
    if body == "LimitBody" and field == "cost_usd":
        return {**_nullable(given), "exclusiveMinimum": 0}
    if found is not None:
        return {**_told(given), **found}
    if field == "graph" or (body, field) == ("ReplayThreads", "agent"):
        names = sorted(graphs)
        return {**_told(given), "enum": names if given.get("type") == "string" else [*names, None]}
    if given.get("type") == "array":  # the framework allows this, or anything
        return {**given, "items": given["items"].get("oneOf", [given["items"]])[0]}
    given = _nullable(given)
    if "string" in given.get("type", ()) and not {"enum", "format", "pattern"} & given.keys():
        return {**given, "pattern": TEXT}
    return given


def _nullable(given: Schema) -> Schema:
    """Write `oneOf` a type and null as one list of types, so that the bounds next to it apply."""
    match given:
        case {"oneOf": [{"type": str(kind)} as first, {"type": "null"}], **beside}:
            return {**beside, **first, "type": [kind, "null"]}
    return given


def _without_null(given: Schema) -> Schema:
    """Remove null: a parameter that is given is text."""
    match given:
        case {"oneOf": [first, {"type": "null"}], **beside}:
            return {**beside, **first}
        case {"type": ["null", str(kind)], "enum": values, **beside}:
            return {**beside, "type": kind, "enum": [value for value in values if value is not None]}
    return given


def _told(given: Schema) -> Schema:
    """Keep the description, the default and the examples."""
    return {key: given[key] for key in ("description", "default", "examples") if given.get(key) is not None}


def _only_with(field: str, decision: str) -> Schema:
    """Allow a field with one decision only."""
    other = {"properties": {"decision": {"not": {"const": decision}}}}
    return {"if": other, "then": {"properties": {field: {"type": "null"}}}}


class TightSchema(JsonRenderPlugin):
    """Renders the tightened schema."""

    _bytes: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Render the schema as JSON, once: agents do not change while the process runs."""
        if self._bytes is None:
            graphs = request.app.state.service.runtime.agents
            self._bytes = self.render_json(
                request, tightened(openapi_schema, graphs, scopes_of_routes(request.app.routes))
            )
        return self._bytes
