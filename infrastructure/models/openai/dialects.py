"""Which fields of a request the endpoint of a model takes: as configured, and as its refusals taught this process.

What a refusal taught is forgotten after an hour: it may have been misread, or another server may answer by then. That
costs one refused request an hour. Otherwise a single refusal could disable an agent's tools until the next restart.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from domain.models.chat import ChatRequest
from infrastructure.models.openai.provider_data import DATA
from infrastructure.models.openai.refusals import FIELDS
from infrastructure.models.openai.response_format import SCHEMA, WITH_TOOLS, schema_name

_log = logging.getLogger(__name__)

LIMITS = ("max_tokens", "max_completion_tokens")
"""The names of the limit on an answer's tokens; one of them is sent. OpenAI's newer models know only the second."""

_REFUSES = "%s refuses %s for the model %s: requests omit it for an hour%s. Set %s=%s to avoid the refusals."

REMEMBERED = timedelta(hours=1)
"""How long requests to a model omit a field that it has refused."""


MAX_SCHEMAS = 1_000
"""Schemas that a model has refused and that are remembered: the last ones."""


@dataclass
class Dialects:
    """The omitted fields for each model of an endpoint.

    `by_setting` are those that the setting named `setting` omits for every model. `limits` are the names of the limit
    on an answer's tokens, the preferred one first.
    """

    by_setting: frozenset[str]
    endpoint: str
    setting: str
    now: Callable[[], datetime]
    limits: Sequence[str] = LIMITS
    _learned: dict[str, dict[str, datetime]] = field(init=False, default_factory=dict)
    """When each field of each model was refused."""

    def omitted(self, model: str) -> frozenset[str]:
        """Return the fields that requests to a model omit."""
        since = self.now() - REMEMBERED
        return self.by_setting | {name for name, at in self._learned.get(model, {}).items() if at > since}

    def learn(self, model: str, fields: frozenset[str]) -> None:
        """Remember that a model answered without these fields after it had refused them. Log that once."""
        new = fields - self.omitted(model)
        if not new:
            return
        learned = self._learned.setdefault(model, {})
        learned.update(dict.fromkeys(new, self.now()))
        schemas = [name for name in learned if name.startswith(SCHEMA)]
        for name in schemas[:-MAX_SCHEMAS]:  # clients may send any number of schemas
            del learned[name]
        if data := sorted(new - FIELDS.keys()):
            taken = ", ".join(name.removeprefix(DATA).replace(SCHEMA, "the JSON schema ") for name in data)
            _log.warning("%s refuses %s: requests to %s omit it for an hour.", self.endpoint, taken, model)
        if not new & FIELDS.keys():
            return
        taken = ", ".join(name for name in FIELDS if name in new)
        value = ",".join(name for name in FIELDS if name in self.omitted(model))
        consequences = _consequences(new, self.omitted(model))
        _log.warning(_REFUSES, self.endpoint, taken, model, consequences, self.setting, value)

    def fields(self, request: ChatRequest, omitted: frozenset[str], *, stream: bool) -> tuple[str, ...]:
        """Return the optional fields that a request is sent with, of `refusals.FIELDS`."""
        streamed = ("stream", "stream_options") if stream and "stream" not in omitted else ()
        limit = next((name for name in self.limits if name not in omitted), "max_tokens")
        fields = (*streamed, *(limit if name == "max_tokens" else name for name in _wanted(request)))
        without = omitted | _without_output(request, omitted)
        return tuple(name for name in fields if name not in without)


def missed(request: ChatRequest, fields: Sequence[str]) -> tuple[str, ...]:
    """Return what the caller asks for and the request omits.

    It is `tools`, `temperature`, `max_tokens`, and of an output `json_schema` or all of `response_format`.
    """
    sent = {"max_tokens" if name in LIMITS else name for name in fields}
    if "response_format" not in sent:
        sent.add("json_schema")  # named by the field that it is a part of
    return tuple(name for name in _wanted(request) if name not in sent)


def _without_output(request: ChatRequest, omitted: frozenset[str]) -> frozenset[str]:
    """Return the fields of an output that a request omits because of what else is in it, or is omitted."""
    refuses_schema = request.output is not None and schema_name(request.output) in omitted
    refuses_tools = bool(request.tools) and "tools" not in omitted and WITH_TOOLS in omitted
    if "response_format" in omitted or refuses_schema or refuses_tools:
        return frozenset({"response_format", "json_schema"})
    return frozenset()


def _wanted(request: ChatRequest) -> list[str]:
    wanted = {
        "tools": request.tools or None,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "json_schema": request.output,
        "response_format": request.output,
    }
    return [name for name, value in wanted.items() if value is not None]


def _consequences(new: frozenset[str], omitted: frozenset[str]) -> str:
    """Describe what omitted fields mean for the agent, if anything."""
    consequences = {
        "the agent cannot use its tools there, and the prompt says so": "tools" in new,
        "typed answers are checked, but not enforced there": bool(new & {"json_schema", "response_format"}),
        "the agent's temperature has no effect there": "temperature" in new,
        "its answers may be longer than what a budget reserves for them": new & {*LIMITS} and omitted >= {*LIMITS},
    }
    return "".join(f"; {line}" for line, applies in consequences.items() if applies)
