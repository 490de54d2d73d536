"""Endpoints that do not take a field of the request: they are asked again without it, and for an hour never with it."""

import json
import logging
from collections.abc import Callable

import pytest

from domain.agents.output import output_of
from domain.models.chat import (
    ChatAnswer,
    ChatMessage,
    ChatRequest,
    ModelRejectedRequest,
    OutputFormat,
    ToolsNotSupported,
    ToolSpec,
)
from infrastructure.models.openai.client import OpenAIChatModel
from infrastructure.models.openai.dialects import REMEMBERED
from tests.fakes.openai_server import OpenAIServer, Otherwise, Reply, Request, completion, events, refusal, stream
from tests.support.openai import NOON, client

FULL = ChatRequest(
    (ChatMessage("system", "Be brief."), ChatMessage("user", "Hello?")),
    tools=(ToolSpec("look", "Look.", {"type": "object", "properties": {}}),),
    temperature=0.2,
    max_tokens=100,
)
FIELDS = ("stream_options", "max_tokens", "temperature", "stream", "tools")

TYPED = ChatRequest(FULL.messages, output=output_of(int).format)

Shape = Callable[[str], Reply]


def openai_shape(message: str) -> Reply:
    return refusal(400, message)


def detail_shape(message: str) -> Reply:
    return Reply([json.dumps({"detail": message}).encode()], 422)


def object_shape(message: str) -> Reply:
    return Reply([json.dumps({"object": "error", "message": message, "code": 400}).encode()], 404)


def list_shape(message: str) -> Reply:
    return Reply([json.dumps([{"error": {"message": message}}]).encode()], 501)


def text_shape(message: str) -> Reply:
    return Reply([message.encode()], 400, {"content-type": "text/plain"})


def failing_shape(message: str) -> Reply:
    return Reply([json.dumps({"error": message}).encode()], 500)


def streamed_shape(message: str) -> Reply:
    return events({"error": {"message": message, "code": 400}})


SHAPES: tuple[Shape, ...] = (
    openai_shape,
    detail_shape,
    object_shape,
    list_shape,
    text_shape,
    failing_shape,
    streamed_shape,
)


def hello(request: Request) -> Reply:
    return stream("Hel", "lo") if request.body.get("stream") else completion("Hello")


def fussy(*fields: str, shape: Shape = openai_shape) -> Otherwise:
    """Refuse the first of these fields that a request has."""

    def answer(request: Request) -> Reply:
        body = request.body
        field = next((field for field in fields if field in body), None)
        return shape(f"Unsupported parameter: '{field}' is not supported.") if field else hello(request)

    return answer


async def asked(model: OpenAIChatModel, request: ChatRequest = FULL) -> str:
    return (await answered(model, request)).content or ""


async def answered(model: OpenAIChatModel, request: ChatRequest = FULL) -> ChatAnswer:
    shown: list[str] = []
    answer = await model.complete(request, shown.append)
    assert "".join(shown) == answer.content
    return answer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_that_is_refused_is_left_out_from_then_on(
    field: str, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    async with OpenAIServer(otherwise=fussy(field, shape=shape)) as server, client(server) as model:
        answers = [await asked(model) for _ in range(3)]
        bodies = [request.body for request in server.requests]
    assert answers == ["Hello"] * 3
    assert [field in body for body in bodies] == [True, False, False, False]
    kept = {name for name in FIELDS if name not in {field, "stream_options"}}
    assert all(kept <= body.keys() for body in bodies)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"refuses {field} for the model small" in line
    assert f"Set LLM_OMIT={field} to avoid the refusals" in line


async def test_the_limit_is_sent_under_its_other_name() -> None:
    async with OpenAIServer(otherwise=fussy("max_tokens")) as server, client(server) as model:
        await asked(model)
    assert server.requests[1].body["max_completion_tokens"] == 100
    async with (
        OpenAIServer(otherwise=fussy("max_completion_tokens")) as server,
        client(server, omit=("max_tokens",)) as model,
    ):
        await asked(model)
    assert not {"max_tokens", "max_completion_tokens"} & server.requests[1].body.keys()


async def test_several_fields_are_found_one_after_another(caplog: pytest.LogCaptureFixture) -> None:
    every = (*FIELDS, "max_completion_tokens")
    async with OpenAIServer(otherwise=fussy(*every)) as server, client(server) as model:
        answers = [await asked(model) for _ in range(2)]
    assert answers == ["Hello"] * 2
    assert len(server.requests) == len(every) + 2
    assert server.requests[-1].body.keys() == {"model", "messages"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "LLM_OMIT=stream_options,max_tokens,max_completion_tokens,temperature,stream,tools" in line
    assert "its answers may be longer than what a budget reserves" in line


async def test_an_answer_names_what_was_asked_for_and_not_taken() -> None:
    for fields, missing in (
        ((), ()),
        (("stream", "stream_options", "max_tokens"), ()),
        (("max_tokens", "max_completion_tokens"), ("max_tokens",)),
        (("temperature", "tools"), ("tools", "temperature")),
    ):
        async with OpenAIServer(otherwise=fussy(*fields)) as server, client(server) as model:
            assert (await answered(model)).omitted == missing
            assert (await answered(model, ChatRequest(FULL.messages))).omitted == ()


async def test_what_is_known_beforehand_is_never_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with OpenAIServer(otherwise=fussy(*FIELDS)) as server, client(server, omit=FIELDS) as model:
        await asked(model)
    assert len(server.requests) == 1
    assert caplog.records == []


async def test_each_model_of_an_endpoint_learns_for_itself() -> None:
    def answer(request: Request) -> Reply:
        small = request.body["model"] == "small" and "temperature" in request.body
        return openai_shape("temperature is not supported") if small else hello(request)

    other = ChatRequest(FULL.messages, temperature=0.2, model="large")
    async with OpenAIServer(otherwise=answer) as server, client(server) as model:
        await asked(model)
        await asked(model, other)
    assert "temperature" in server.requests[-1].body


async def test_a_refusal_that_goes_on_is_raised_and_nothing_is_learned(caplog: pytest.LogCaptureFixture) -> None:
    always = openai_shape("temperature is not supported")
    async with OpenAIServer(always, always, otherwise=hello) as server, client(server) as model:
        with pytest.raises(ModelRejectedRequest, match="temperature is not supported"):
            await model.complete(FULL)
        await asked(model)
    assert ["temperature" in request.body for request in server.requests] == [True, False, True]
    assert caplog.records == []


async def test_a_model_without_tools_is_told_that_it_has_none(caplog: pytest.LogCaptureFixture) -> None:
    async with OpenAIServer(otherwise=fussy("tools")) as server, client(server) as model:
        await asked(model)
    told = server.requests[1].body["messages"][0]
    assert told["role"] == "system"
    assert told["content"].startswith("Be brief.\n\nTools cannot be used now.")
    assert "the agent cannot use its tools there" in caplog.text


@pytest.mark.parametrize("needs_tools", [False, True])
async def test_one_refusal_does_not_take_the_tools_for_good(needs_tools: bool) -> None:  # noqa: FBT001
    """An endpoint refuses tools once, as a gateway does while it has no server with tools."""
    once, clock = openai_shape("No endpoints found that support tool use."), [NOON]
    request = ChatRequest(FULL.messages, FULL.tools, needs_tools=needs_tools)
    async with OpenAIServer(once, otherwise=hello) as server, client(server, now=lambda: clock[0]) as model:
        await answered(model, ChatRequest(FULL.messages, FULL.tools))
        clock[0] += REMEMBERED / 2
        assert (await answered(model, ChatRequest(FULL.messages, FULL.tools))).omitted == ("tools",)
        clock[0] += REMEMBERED
        assert (await answered(model, request)).omitted == ()
    assert ["tools" in request.body for request in server.requests] == [True, False, False, True]


async def test_a_model_without_tools_leaves_them_to_another_one() -> None:
    needing = ChatRequest(FULL.messages, FULL.tools, needs_tools=True)
    async with OpenAIServer(otherwise=fussy("tools")) as server, client(server) as model:
        with pytest.raises(
            ToolsNotSupported, match=r"small takes no tools\. Set LLM_OMIT=tools to ask it without them"
        ):
            await model.complete(needing)
        await asked(model)
        with pytest.raises(ToolsNotSupported):
            await model.complete(needing)
    assert len(server.requests) == 3, "once it is known, it is not asked"
    async with OpenAIServer(otherwise=fussy("tools")) as server, client(server, omit=("tools",)) as model:
        assert await asked(model, needing) == "Hello"


async def test_an_answer_that_was_not_to_be_streamed_is_shown_all_the_same() -> None:
    async with OpenAIServer(otherwise=fussy("stream")) as server, client(server) as model:
        assert await asked(model) == "Hello"
    assert "stream_options" not in server.requests[1].body


async def test_a_refusal_about_something_else_is_not_repeated() -> None:
    async with OpenAIServer(otherwise=refusal(400, "max_tokens is too large")) as server, client(server) as model:
        with pytest.raises(ModelRejectedRequest):
            await model.complete(FULL)
    assert len(server.requests) == 1


def sent_format(request: Request) -> str | None:
    """Return the type of structured output that a request asks for."""
    found: str | None = request.body.get("response_format", {}).get("type")
    return found


def without_schemas(request: Request) -> Reply:
    """Answer as DeepSeek does."""
    if sent_format(request) == "json_schema":
        return refusal(400, "This response_format type is unavailable now")
    return completion('{"answer": 7}')


def without_formats(request: Request) -> Reply:
    if "response_format" in request.body:
        return refusal(400, f"'response_format' of type '{sent_format(request)}' is not supported with this model.")
    return completion("7")


def without_both(request: Request) -> Reply:
    """Answer as Gemini and Cerebras have done."""
    if request.body.keys() >= {"tools", "response_format"}:
        return refusal(400, '"tools" is incompatible with "response_format"')
    return completion('{"answer": 7}')


class TestStructuredOutput:
    async def test_json_is_asked_for_where_schemas_are_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        async with OpenAIServer(otherwise=without_schemas) as server, client(server) as model:
            answers = [await model.complete(TYPED) for _ in range(2)]
        assert [sent_format(each) for each in server.requests] == ["json_schema", "json_object", "json_object"]
        assert [output_of(int).parse(answer.content or "") for answer in answers] == [7, 7]
        assert [answer.omitted for answer in answers] == [("json_schema",)] * 2
        (line,) = [record.getMessage() for record in caplog.records]
        assert "refuses json_schema for the model small" in line
        assert "typed answers are checked, but not enforced there" in line
        assert "Set LLM_OMIT=json_schema to avoid" in line

    async def test_answers_are_valid_without_any_structured_mode(self) -> None:
        async with OpenAIServer(otherwise=without_formats) as server, client(server) as model:
            answers = [await model.complete(TYPED) for _ in range(2)]
        assert [sent_format(each) for each in server.requests] == ["json_schema", "json_object", None, None]
        assert [output_of(int).parse(answer.content or "") for answer in answers] == [7, 7]
        assert [answer.omitted for answer in answers] == [("response_format",)] * 2

    async def test_the_field_is_left_out_at_once_if_it_is_unknown(self) -> None:
        async with OpenAIServer(otherwise=fussy("response_format")) as server, client(server) as model:
            await model.complete(TYPED)
        assert [sent_format(each) for each in server.requests] == ["json_schema", None]

    async def test_it_is_tried_again_after_an_hour(self) -> None:
        clock, once = [NOON], refusal(400, "Unrecognized request argument supplied: response_format")
        async with OpenAIServer(once, otherwise=hello) as server, client(server, now=lambda: clock[0]) as model:
            for passed in (REMEMBERED / 2, REMEMBERED, REMEMBERED):
                await model.complete(TYPED)
                clock[0] += passed
        assert [sent_format(each) for each in server.requests] == ["json_schema", None, None, "json_schema"]

    async def test_it_is_never_sent_if_the_setting_says_so(self) -> None:
        async with OpenAIServer(otherwise=hello) as server:
            for omit, kind in (("json_schema", "json_object"), ("response_format", None)):
                async with client(server, omit=(omit,)) as model:
                    await model.complete(TYPED)
                assert sent_format(server.requests[-1]) == kind

    async def test_tools_stay_where_both_together_are_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        both = ChatRequest(FULL.messages, FULL.tools, output=TYPED.output, needs_tools=True)
        async with OpenAIServer(otherwise=without_both) as server, client(server) as model:
            answers = [await model.complete(request) for request in (both, both, TYPED)]
        sent = [("tools" in each.body, sent_format(each)) for each in server.requests]
        assert sent == [(True, "json_schema"), (True, None), (True, None), (False, "json_schema")]
        assert [answer.omitted for answer in answers] == [("response_format",), ("response_format",), ()]
        assert "refuses response_format together with tools: requests to small omit it" in caplog.text

    async def test_a_schema_that_is_refused_takes_no_other_with_it(self, caplog: pytest.LogCaptureFixture) -> None:
        def answer(request: Request) -> Reply:
            wanted = request.body.get("response_format", {}).get("json_schema", {})
            message = "invalid schema for response format: response_format/json_schema: minItems is not supported"
            return refusal(400, message) if wanted.get("name") == "Many" else completion('{"answer": 7}')

        many = ChatRequest(FULL.messages, output=OutputFormat("Many", {"type": "object", "minItems": 1}))
        async with OpenAIServer(otherwise=answer) as server, client(server) as model:
            for request in (many, many, TYPED):
                await model.complete(request)
        assert [sent_format(each) for each in server.requests] == ["json_schema", None, None, "json_schema"]
        assert "refuses the JSON schema Many" in caplog.text
