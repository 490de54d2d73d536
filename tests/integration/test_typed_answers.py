"""An agent with typed answers over HTTP: with the built-in model, and with endpoints that know more or less of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.openai_server import OpenAIServer, Reply, Request, completion, refusal, stream
from tests.fakes.strict_model import StrictModel
from tests.support.http import running_api

AGENTS = ("tests.support.agents:claims",)
SAID = "Order A-17 came late, 30 of it is wrong"
CLAIM = {"order": "A-17", "amount": 30, "reason": "late"}


async def claimed(**settings: object) -> dict[str, Any]:
    """Return the agent's answer."""
    async with running_api(database_url="memory://", agents=AGENTS, **settings) as api:
        thread = await api.opened(graph="claims")
        turn = (await api.turn(thread, SAID)).json()
        assert turn["status"] == "completed", turn
        return dict(json.loads(turn["answer"]))


async def test_the_built_in_model_answers_with_json_that_fits() -> None:
    answer = await claimed()
    assert answer == CLAIM


async def test_a_strict_endpoint_is_asked_with_the_schema() -> None:
    model = StrictModel()
    async with OpenAIServer(otherwise=model) as server:
        answer = await claimed(llm_endpoint=server.endpoint)
        bodies = [request.body for request in server.requests]
    assert list(model.refused.values()) == []
    assert answer == CLAIM
    assert [body["response_format"]["json_schema"]["name"] for body in bodies] == ["Literal", "Claim"]


def without_schemas(request: Request) -> Reply:
    """Answer as DeepSeek does."""
    if request.body.get("response_format", {}).get("type") == "json_schema":
        return refusal(400, "This response_format type is unavailable now")
    return written(request)


def without_tools(request: Request) -> Reply:
    """Answer as Gemini has done."""
    if request.body.keys() >= {"response_format", "tools"}:
        return refusal(400, "Function calling with a response mime type: 'application/json' is unsupported")
    return written(request)


def without_any(request: Request) -> Reply:
    if "response_format" in request.body:
        return refusal(422, "Extra inputs are not permitted: response_format")
    return written(request)


def written(request: Request) -> Reply:
    """Answer as a model that has read the schema in its prompt."""
    prompt = str(request.body["messages"][0]["content"])
    assert "fits this JSON schema" in prompt
    text = json.dumps(CLAIM) if "amount" in prompt else "late."
    return stream(text) if request.body.get("stream") else completion(text)


@pytest.mark.parametrize("endpoint", [without_schemas, without_tools, without_any])
async def test_answers_stay_valid_where_it_is_refused(endpoint: Callable[[Request], Reply]) -> None:
    async with OpenAIServer(otherwise=endpoint) as server:
        answer = await claimed(llm_endpoint=server.endpoint)
    assert answer == CLAIM
    assert len(server.requests) == 3, "one refusal, which is remembered"
    last = server.requests[-1].body
    assert "tools" in last
    assert last.get("response_format") == ({"type": "json_object"} if endpoint is without_schemas else None)
