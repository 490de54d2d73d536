"""What strict endpoints say about a request for a chat completion, as plain functions of its JSON.

A prompt that passes every rule is accepted by each of these, as documented and as their error messages say:

- OpenAI and Azure: names match `^[a-zA-Z0-9_-]{1,64}$`; a call's id has at most 40 characters; each call is answered
  directly after the message that asked for it; a tool's message answers an open call; no unknown fields.
- Mistral, and vLLM, mlx and llama.cpp with its templates: a call's id is exactly nine of `[a-zA-Z0-9]`; the roles of
  user and assistant alternate, where messages with calls do not count; no user's message after a tool's; the last
  message is not the assistant's.
- Gemma's, Llama's and Qwen's templates: one system message, first if at all; then user and assistant in turn,
  beginning with the user; contents are texts, never null.
- Anthropic and Bedrock behind OpenAI's protocol: no content without a visible character; ids unique in the whole
  conversation; calls in the history only beside `tools`; the last message is not the assistant's.
- Gemini: names begin with a letter or an underscore; results in the order of the calls, as it counts them by position.
- Groq, Cerebras: fields of other providers in a message are rejected.
- OpenAI, of `response_format`: a name as of tools; the schema of an object; if `strict`, closed objects that require
  all their properties; for `json_object`, the word JSON in the prompt.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", re.ASCII)
CALL_ID = re.compile(r"[a-zA-Z0-9]{9}", re.ASCII)
ROLES = ("system", "user", "assistant", "tool")
MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls"},
    "tool": {"role", "content", "name", "tool_call_id"},
}
CALL_FIELDS = {"id", "type", "function"}
SHOWN = 60


def violations(body: Mapping[str, Any], own_fields: Collection[str] = ()) -> list[str]:
    """Return what is wrong with a request; nothing if every strict endpoint accepts it.

    `own_fields`: fields of messages and of calls that this endpoint knows beyond OpenAI's, such as `reasoning_content`.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return ["messages: must be a list with at least one message"]
    if not all(isinstance(message, dict) for message in messages):
        return ["messages: each must be an object"]
    own = set(own_fields)
    found = [
        *_of_tools(body),
        *_of_format(body),
        *_of_order(messages),
        *_of_calls(messages, declared=bool(body.get("tools"))),
    ]
    for number, message in enumerate(messages):
        found += [f"messages.{number}: {what}" for what in _of_message(message, own)]
    return found


def _of_tools(body: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield "model: must be a name"
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list) or not tools:
        yield "tools: must be absent or have at least one tool"
        return
    seen = set()
    for number, tool in enumerate(tools):
        function = tool.get("function") or {}
        name = function.get("name")
        if tool.get("type") != "function" or not _is_name(name):
            yield f"tools.{number}: {_brief(name)} is not the name of a function"
        if name in seen:
            yield f"tools.{number}: {_brief(name)} is declared twice"
        seen.add(name)
        if (function.get("parameters") or {"type": "object"}).get("type") != "object":
            yield f"tools.{number}: the parameters are no schema of an object"


def _of_format(body: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the structured output that a request asks for."""
    wanted = body.get("response_format")
    if wanted is None:
        return
    if wanted == {"type": "json_object"}:
        if "json" not in json.dumps(body["messages"]).lower():
            yield "'messages' must contain the word 'json' in some form"
        return
    inner = wanted.get("json_schema") if wanted.get("type") == "json_schema" else None
    if not isinstance(inner, dict) or inner.keys() != {"name", "schema", "strict"} or not _is_name(inner["name"]):
        yield f"response_format: {_brief(wanted)} is no text, json_object or json_schema with its name"
        return
    schema = inner["schema"]
    if schema.get("type") != "object" and "$ref" not in schema:
        yield f"Invalid schema for response_format {inner['name']!r}: the root must be an object"
    if inner["strict"]:
        yield from (f"Invalid schema for response_format {inner['name']!r}: {what}" for what in _not_strict(schema))


def _not_strict(schema: Any) -> Iterator[str]:
    """Say what strict mode refuses of a schema."""
    for each in schema if isinstance(schema, list) else ():
        yield from _not_strict(each)
    if not isinstance(schema, dict):
        return
    if "$ref" in schema and schema.keys() - {"$ref", "$defs"}:
        yield "$ref cannot have keywords"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            yield "'additionalProperties' is required to be supplied and to be false"
        if set(schema.get("required", ())) != schema.get("properties", {}).keys():
            yield "'required' is required to be an array including every key in properties"
    for keyword, inner in schema.items():
        if keyword in {"default", "oneOf", "allOf", "not", "minLength", "maxLength", "uniqueItems", "prefixItems"}:
            yield f"{keyword!r} is not permitted"
        for part in inner.values() if keyword in {"properties", "$defs"} else [inner]:
            yield from _not_strict(part)


def _of_order(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Say what templates with strictly alternating roles would raise."""
    expected = "user"  # of the messages that count: those of users, and the assistant's without calls
    previous = None
    for number, message in enumerate(messages):
        role = message.get("role")
        if role == "system" and number > 0:
            yield f"messages.{number}: a system message must be the first one"
        if role == "user" and previous == "tool":
            yield f"messages.{number}: unexpected role 'user' after role 'tool'"
        if role == "assistant" and previous not in ("user", "tool"):
            yield f"messages.{number}: unexpected role 'assistant' after {previous or 'nothing'}"
        if role == "user" and previous == "user":
            yield f"messages.{number}: two user messages in a row"
        if role == "user" or (role == "assistant" and not message.get("tool_calls")):
            if role != expected:
                yield f"messages.{number}: roles must alternate: expected {expected}, got {role}"
            expected = "assistant" if role == "user" else "user"
        previous = role
    if previous not in ("user", "tool"):
        yield f"messages: the last one must be of role user or tool, not {previous}"


def _of_calls(messages: list[dict[str, Any]], *, declared: bool) -> Iterator[str]:
    """Say what is wrong with calls and their results: one for each, directly after them, in their order."""
    ids: set[Any] = set()
    open_calls: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        role = message.get("role")
        if role == "tool":
            answered = message.get("tool_call_id")
            at = next((i for i, call in enumerate(open_calls) if call.get("id") == answered), None)
            if at is None:
                yield f"messages.{number}: it answers {_brief(answered)}, which is no open call"
                continue
            if at > 0:
                yield f"messages.{number}: the result of {_brief(answered)} is out of the order of the calls"
            name = (open_calls.pop(at).get("function") or {}).get("name")
            if message.get("name", name) != name:
                yield f"messages.{number}: it names {_brief(message['name'])}, but answers {_brief(name)}"
            continue
        if open_calls:
            yield f"messages.{number}: calls {_brief([call.get('id') for call in open_calls])} have no result before it"
        open_calls = list(message.get("tool_calls") or ())
        for call in open_calls:
            if call.get("id") in ids:
                yield f"messages.{number}: the id {_brief(call.get('id'))} is used twice"
            ids.add(call.get("id"))
        if open_calls and not declared:
            yield f"messages.{number}: calls of tools in a request that declares no tools"
    if open_calls:
        yield f"messages: calls {_brief([call.get('id') for call in open_calls])} have no result"


def _of_message(message: dict[str, Any], own: set[str]) -> Iterator[str]:
    role = message.get("role")
    if role not in ROLES:
        yield f"unknown role {_brief(role)}"
        return
    for field in sorted(message.keys() - MESSAGE_FIELDS[role] - (own if role == "assistant" else set())):
        yield f"property {field!r} is unsupported"
    content, calls = message.get("content"), message.get("tool_calls")
    if not isinstance(content, str):
        yield f"content: must be a text, not {_brief(content)}"
    elif not content.strip() and not (calls and content == ""):
        yield f"content: must have a visible character, not {_brief(content)}"
    elif not _is_unicode(content):
        yield "content: half of a character"
    if "name" in message and not _is_name(message["name"]):
        yield f"name: {_brief(message['name'])} is invalid"
    if role == "tool" and not _is_id(message.get("tool_call_id")):
        yield f"tool_call_id: {_brief(message.get('tool_call_id'))} is not nine of a-z, A-Z, 0-9"
    if "tool_calls" not in message:
        return
    if not isinstance(calls, list) or not calls:
        yield "tool_calls: must be absent or have at least one call"
        return
    for number, call in enumerate(calls):
        yield from (f"tool_calls.{number}: {what}" for what in _of_call(call, own))


def _of_call(call: dict[str, Any], own: set[str]) -> Iterator[str]:
    function = call.get("function") or {}
    for field in sorted((call.keys() - CALL_FIELDS - own) | (function.keys() - {"name", "arguments"})):
        yield f"property {field!r} is unsupported"
    if call.get("type") != "function":
        yield f"type: must be 'function', not {_brief(call.get('type'))}"
    if not _is_id(call.get("id")):
        yield f"id: {_brief(call.get('id'))} is not nine of a-z, A-Z, 0-9"
    if not _is_name(function.get("name")):
        yield f"function.name: {_brief(function.get('name'))} does not match {NAME.pattern}"
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or not _is_object(arguments):
        yield f"function.arguments: {_brief(arguments)} is not the JSON of an object"


def _is_name(name: object) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _is_id(given: object) -> bool:
    return isinstance(given, str) and CALL_ID.fullmatch(given) is not None


def _is_object(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
