"""A context window that the conversation outgrows: the model is shown less, the transcript has all."""

import pathlib

import httpx

from examples.airline.recordings import conversations
from tests.e2e.airline import Customer, as_recorded, as_served
from tests.e2e.server_process import recorded_model, threadfold

LIMIT = 6000
"""Tokens. Policy and tools take about half of them, this conversation's messages would take as many again."""

SETTINGS = {
    "AGENTS": "examples.airline.agent:airline",
    "CONTEXT_WINDOW_LIMIT": str(LIMIT),
    "DATABASE_URL": "memory://",
}


async def test_a_conversation_beyond_the_context_window_is_compacted_and_still_served_whole(
    tmp_path: pathlib.Path,
) -> None:
    longest = max(conversations().values(), key=lambda conversation: len(str(conversation.messages)))
    async with (
        recorded_model(tmp_path) as model,
        threadfold(tmp_path, LLM_ENDPOINT=f"{model.url}/v1", **SETTINGS) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client,
    ):
        customer = Customer(client, longest)
        for number in range(len(customer.says)):
            await customer.say(number)
        messages, events = await customer.messages(), await customer.events()
    assert [*map(as_served, messages)] == [*map(as_recorded, longest.messages)]
    assert any(event["type"] == "HistoryCompacted" for event in events)
    shown = [event["data"] for event in events if event["type"] == "ContextAssembled"]
    assert all(context["tokens"] <= context["limit"] < LIMIT for context in shown)
    counted = [event["data"] for event in events if event["type"] == "ModelCalled"]
    assert all(call["prompt_tokens"] <= LIMIT for call in counted)
