"""What an endpoint says beyond the protocol comes back to it, and to no other one."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.openai_server import Reply, Request, chunk, completion, events, refusal, stream
from tests.support.http import Api, running_api
from tests.support.strict_server import StrictServer, asks, wish

A = '{"text": "a"}'
SIGNED: dict[str, Any] = {"extra_content": {"google": {"thought_signature": "Cq8BAdHtim9+/x" * 20}}}
OWN = ("extra_content", "reasoning_content", "reasoning", "reasoning_details", "thinking_blocks")

FILE = """
chain = ["large", "small"]

[providers.cloud]
endpoint = "{cloud}"

[providers.local]
endpoint = "{local}"

[models.large]
provider = "cloud"
model = "big-1"

[models.small]
provider = "local"
model = "tiny-1"
"""


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@asynccontextmanager
async def talking(server: StrictServer, url: str = "memory://", **more: Any) -> AsyncIterator[Api]:
    settings = {"database_url": url, "llm_endpoint": server.endpoint, "agents": ("tests.support.agents:desk",)}
    async with running_api(**settings, **more) as api:
        yield api


async def completed(api: Api, thread: str, *texts: str) -> None:
    for text in texts:
        turn = await api.turn(thread, text)
        assert turn.json()["status"] == "completed", turn.text


def assistants(prompt: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in prompt if message["role"] == "assistant"]


def beyond(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in {"role", "content", "tool_calls"}}


async def test_signatures_of_calls_and_messages_come_back_through_tools_turns_and_snapshots(log_url: str) -> None:
    """As Gemini has it: on the calls of an answer, and on the last piece of its text."""
    script = (
        asks(wish("echo", A, "", **SIGNED), wish("echo", A, "")),
        events(chunk("It is a.", role="assistant"), chunk("", **SIGNED), chunk(finish="stop"), "[DONE]"),
    )
    async with StrictServer(*script, own_fields=OWN) as server:
        async with talking(server, log_url, snapshot_every=1) as api:
            thread = await api.opened(graph="desk")
            await completed(api, thread, "go", "and now?")
        if log_url != "memory://":  # another process, which knows the thread from its snapshot
            async with talking(server, log_url, snapshot_every=1) as api:
                await completed(api, thread, "thank you")
        for prompt in server.prompts[2:]:
            asked, said = assistants(prompt)[:2]
            first, second = asked["tool_calls"]
            assert first["extra_content"] == SIGNED["extra_content"]
            assert "extra_content" not in second
            assert beyond(said) == SIGNED
        assert server.refused == []


async def test_reasoning_that_comes_in_pieces_comes_back_whole() -> None:
    """As DeepSeek has it: with each message of a turn that uses tools, even where the model did not think."""
    pieces = [
        chunk(None, reasoning_content=piece) for piece in ("The user ", "wants an ", "echo. ", "\ud83d", "\ude00")
    ]
    call = chunk(None, tool_calls=[{"index": 0, **wish("echo", A)}])
    script = (
        events(
            chunk(None, role="assistant", reasoning_content=""), *pieces, call, chunk(finish="tool_calls"), "[DONE]"
        ),
        events(chunk(None, role="assistant", reasoning_content=""), call, chunk(finish="tool_calls"), "[DONE]"),
        events(chunk(None, reasoning_content="Done."), chunk("It is a."), chunk(finish="stop"), "[DONE]"),
    )
    async with StrictServer(*script, own_fields=OWN) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await completed(api, thread, "go", "thank you")
        thought = [message.get("reasoning_content") for message in assistants(server.prompts[-1])]
        assert thought == ["The user wants an echo. \U0001f600", "", "Done."]
        shown = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        assert "wants an echo" not in json.dumps(shown)
        assert "wants an echo" not in (await api.get(f"/v1/threads/{thread}/state")).text
        happened = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 100})).json()["items"]
        assert any("wants an echo" in json.dumps(event["data"]) for event in happened)


async def test_streamed_details_are_put_together_and_name_the_calls_as_the_request_does() -> None:
    """As OpenRouter has it: texts in pieces, a signature at their end, and an encrypted part that names its call."""
    details = [
        {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1", "text": "The user "},
        {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1", "text": "wants it."},
        {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1", "signature": "c2ln" * 20},
        {"type": "reasoning.encrypted", "index": 1, "format": "google-gemini-v1", "id": "tool_echo_1", "data": "eA=="},
    ]
    pieces = [chunk("", role="assistant", reasoning_details=[detail]) for detail in details]
    call = chunk(None, tool_calls=[{"index": 0, **wish("echo", A, "tool_echo_1")}])
    async with StrictServer(events(*pieces, call, chunk(finish="tool_calls"), "[DONE]"), own_fields=OWN) as server:
        async with talking(server) as api:
            await completed(api, await api.opened(graph="desk"), "go")
        (asked,) = assistants(server.prompts[-1])
        assert asked["reasoning_details"] == [
            {**details[0], "text": "The user wants it.", "signature": "c2ln" * 20},
            {**details[3], "id": asked["tool_calls"][0]["id"]},
        ]


async def test_an_answer_that_comes_whole_keeps_its_data() -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "thinking", "thinking": "so"}]
    reply = completion(None, [wish("echo", A, **SIGNED)], "tool_calls")
    body = json.loads(reply.body[0])  # type: ignore[arg-type]
    body["choices"][0]["message"] |= {"thinking_blocks": blocks, "annotations": [], "refusal": None, "audio": None}
    async with StrictServer(Reply([json.dumps(body).encode()]), own_fields=OWN) as server, talking(server) as api:
        await completed(api, await api.opened(graph="desk"), "go")
        (asked,) = assistants(server.prompts[-1])
        assert beyond(asked) == {"thinking_blocks": blocks}
        assert asked["tool_calls"][0]["extra_content"] == SIGNED["extra_content"]


async def test_another_provider_is_told_nothing_of_it(tmp_path: Path) -> None:
    call = {"index": 0, **wish("echo", A, **SIGNED)}
    thinks = events(chunk(None, reasoning_content="hm", tool_calls=[call]), chunk(finish="tool_calls"), "[DONE]")
    own = events(chunk("Mine.", reasoning="well"), chunk(finish="stop"), "[DONE]")
    busy = refusal(401, "not today")
    async with (
        StrictServer(thinks, busy, stream("Back."), own_fields=("reasoning_content", "extra_content")) as cloud,
        StrictServer(own, own_fields=("reasoning",)) as local,
    ):
        file = tmp_path / "models.toml"
        file.write_text(FILE.format(cloud=cloud.endpoint, local=local.endpoint))
        settings = {"database_url": "memory://", "models": file, "agents": ("tests.support.agents:desk",)}
        async with running_api(**settings) as api:
            thread = await api.opened(graph="desk")
            await completed(api, thread, "go")
            # the first model rests after its refusals only if there are many: it is asked again
            await completed(api, thread, "and now?")
        assert (cloud.refused, local.refused) == ([], [])
        assert all(not beyond(message) for message in assistants(local.prompts[0]))
        asked, said = assistants(cloud.prompts[-1])
        assert (beyond(asked), beyond(said)) == ({"reasoning_content": "hm"}, {})
        assert asked["tool_calls"][0]["extra_content"] == SIGNED["extra_content"]


async def test_what_is_too_large_is_dropped_whole_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    pieces = [chunk(None, reasoning_content="a long thought " * 400) for _ in range(20)]
    bulky = events(*pieces, chunk("Hello."), chunk(finish="stop"), "[DONE]")
    wordy = events(chunk(None, reasoning_content="many words " * 5_000), chunk("Hi."), chunk(finish="stop"), "[DONE]")
    async with StrictServer(bulky, wordy, own_fields=OWN) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        with caplog.at_level(logging.WARNING):
            await completed(api, thread, "one", "two", "three")
        assert [beyond(message) for message in assistants(server.prompts[-1])] == [{}, {}]
        assert sum("dropped" in record.getMessage().lower() for record in caplog.records) == 2


async def test_a_fork_returns_it_unless_the_message_reads_otherwise_there() -> None:
    thinks = events(chunk(None, reasoning_content="hm"), chunk("It is five."), chunk(finish="stop"), "[DONE]")
    async with StrictServer(thinks, own_fields=OWN) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await completed(api, thread, "what is it?")
        window = (await api.get(f"/v1/threads/{thread}/state")).json()["window"]
        said = next(message["version"] for message in window if message["role"] == "assistant")
        for body, kept in (
            ({}, {"reasoning_content": "hm"}),
            ({"messages": [{"version": said, "content": "It is six."}]}, {}),
        ):
            forked = await api.post(f"/v1/threads/{thread}/fork", json=body)
            assert forked.is_success, forked.text
            await completed(api, forked.json()["thread_id"], "sure?")
            assert beyond(assistants(server.prompts[-1])[0]) == kept


def unless(found: Callable[[list[dict[str, Any]]], bool], words: str, then: Reply) -> Callable[[Request], Reply]:
    """Refuse prompts in which something is found."""
    return lambda request: refusal(400, words) if found(request.body["messages"]) else then


@pytest.mark.parametrize(
    "words",
    [
        "'messages.2' : property 'reasoning' is unsupported",
        "The reasoning is for display only. Please remove the reasoning from your message.",
        "reasoning: Extra inputs are not permitted",
    ],
)
async def test_an_endpoint_that_does_not_take_its_own_data_back_is_asked_without(
    words: str, caplog: pytest.LogCaptureFixture
) -> None:
    thinks = events(chunk("Hello.", reasoning="hm", kept="yes"), chunk(finish="stop"), "[DONE]")

    def returned(prompt: list[dict[str, Any]]) -> bool:
        return any("reasoning" in message for message in prompt)

    picky = unless(returned, words, stream("Again."))
    async with StrictServer(thinks, *[picky] * 9, own_fields=("reasoning", "kept")) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await completed(api, thread, "one", "two", "three")
        assert len(server.prompts) == 4, "the first refusal is remembered"
        assert beyond(assistants(server.prompts[-1])[0]) == {"kept": "yes"}
        assert any("refuses reasoning" in record.getMessage() for record in caplog.records)


async def test_a_thread_goes_on_where_an_endpoint_refuses_its_own_data_without_a_word_about_it() -> None:
    thinks = events(chunk("Hello.", reasoning="hm", kept="yes"), chunk(finish="stop"), "[DONE]")
    picky = unless(lambda prompt: any(beyond(message) for message in prompt), "Bad Request", stream("Again."))
    async with StrictServer(thinks, *[picky] * 9, own_fields=("reasoning", "kept")) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await completed(api, thread, "one", "two", "three")
        assert len(server.prompts) == 4, "what it takes is remembered"


async def test_a_refusal_about_something_else_is_told_in_the_first_words() -> None:
    thinks = events(chunk("Hello.", reasoning="hm"), chunk(finish="stop"), "[DONE]")
    script = (thinks, refusal(400, "something is wrong"), refusal(400, "reasoning is needed"))
    async with StrictServer(*script, own_fields=["reasoning"]) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await completed(api, thread, "one")
        failed = (await api.turn(thread, "two")).json()
        assert (failed["status"], "something is wrong" in failed["detail"]) == ("failed", True)
        await completed(api, thread, "three")
        assert len(server.prompts) == 4
        assert beyond(assistants(server.prompts[-1])[0]) == {"reasoning": "hm"}, "nothing is learned from that"


@pytest.mark.parametrize(
    "words",
    [
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
        "Function call is missing a thought_signature in functionCall parts.",
    ],
)
async def test_an_endpoint_that_refuses_calls_of_another_model_is_told_of_them_in_words(
    words: str, tmp_path: Path
) -> None:
    call = {"index": 0, **wish("echo", A)}
    thinks = events(chunk(None, reasoning_content="hm", tool_calls=[call]), chunk(finish="tool_calls"), "[DONE]")

    def unsigned(prompt: list[dict[str, Any]]) -> bool:
        return any("tool_calls" in message and not beyond(message) for message in prompt)

    lines = [unless(unsigned, words, reply) for reply in (stream("I see."), stream("I see."), thinks, stream("Done."))]
    async with (
        StrictServer(refusal(401, "not today"), *lines, own_fields=OWN) as cloud,
        StrictServer(asks(wish("echo", '{"text": "b"}')), stream("Mine.")) as local,
    ):
        file = tmp_path / "models.toml"
        file.write_text(FILE.format(cloud=cloud.endpoint, local=local.endpoint))
        settings = {"database_url": "memory://", "models": file, "agents": ("tests.support.agents:desk",)}
        async with running_api(**settings) as api:
            thread = await api.opened(graph="desk")
            await completed(api, thread, "go", "and now?", "once more")
        assert cloud.refused == []
        told = json.dumps(cloud.prompts[-1])
        assert "Called echo" in told
        assert "echo[b]" in told
        (asked,) = [message for message in assistants(cloud.prompts[-1]) if "tool_calls" in message]
        assert beyond(asked) == {"reasoning_content": "hm"}
