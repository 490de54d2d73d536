"""What an author reads about a failure: the error, its place in their code, and what the model had written."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from domain.agents.error_text import MAX_ERROR_CHARACTERS, failure_text
from domain.errors import InvalidInput
from domain.thread.events import ItemFailed, NodeFailed, TurnFailed
from tests.support.runtime import one_node, says, stage
from threadfold import END, Agent, Branch, Graph, ItemContext, Json, Node, NodeEvent, RetryPolicy, Running, TurnContext


async def detail(agent: Agent, *lines: str) -> str:
    played = stage(agent, *map(says, lines))
    await played.say("go")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    return failed.detail


async def test_an_error_names_the_function_the_file_and_the_line() -> None:
    def add(text: str) -> int:
        return 1 + text  # type: ignore[operator]

    async def work(_: TurnContext) -> Sequence[NodeEvent]:
        add("1")
        return ()

    said = await detail(one_node(work))
    line = add.__code__.co_firstlineno + 1
    assert said.endswith(f"TypeError: unsupported operand type(s) for +: 'int' and 'str' (in add, {FILE} line {line})")


async def test_an_error_of_a_library_names_who_called_it() -> None:
    async def work(_: TurnContext) -> Sequence[NodeEvent]:
        json.loads("{")
        return ()

    line = work.__code__.co_firstlineno + 1
    assert (await detail(one_node(work))).endswith(f" (in work, {FILE} line {line})")


async def test_an_error_of_a_branch_has_a_place() -> None:
    async def work(_: TurnContext) -> Sequence[NodeEvent]:
        return ()

    def choose(state: Running) -> str:
        return str(state.thread.values["mood"])

    agent = Agent(Graph("moody", "only", [Node("only", work)], {"only": Branch(choose, {"good": END})}))
    assert f"KeyError: 'mood' (in choose, {FILE} line " in await detail(agent)


async def test_what_cannot_be_parsed_is_quoted() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        msgspec.json.decode(await turn.ask("How many?"))
        return ()

    said = await detail(one_node(work), "Three, I think.")
    assert "DecodeError: JSON is malformed" in said
    assert said.endswith("The model's last answer was: Three, I think.")


async def test_what_an_item_cannot_parse_is_quoted() -> None:
    async def each(item: ItemContext, _: Json) -> Json:
        return int(await item.ask("How many?"))

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(str(await turn.map([1], each)))]

    played = stage(one_node(work), *map(says, ["many"] * 3))
    await played.say("go")
    failed = [event.error for event in await played.happened(ItemFailed) if isinstance(event, ItemFailed)]
    assert len(failed) == 3
    assert all(f"(in each, {FILE} line " in error and error.endswith("was: many") for error in failed)
    (node,) = await played.happened(NodeFailed)
    assert isinstance(node, NodeFailed)
    assert f"(in each, {FILE} line " in node.error


def raised(error: Exception) -> Exception:
    """Raise an error here, and return it."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_errors_that_say_what_to_do_have_no_place() -> None:
    text = failure_text(raised(InvalidInput("amount", "must be positive")))
    assert text == "InvalidInput: amount: must be positive"


@pytest.mark.parametrize("length", [10, 10_000])
def test_texts_are_bounded(length: int) -> None:
    text = failure_text(raised(ValueError("x" * length)), "y" * length)
    assert len(text) <= MAX_ERROR_CHARACTERS
    assert f"(in raised, {FILE} line " in text


FILE = "test_failure_places.py"


@pytest.mark.parametrize(
    ("returns", "advice"),
    [
        (lambda turn: None, "without any, return []"),
        (lambda turn: turn.say("a"), "as in [event], not a single MessageAppended"),
        (lambda turn: "a", "a list of events, not str"),
        (lambda turn: turn.generate(), "return the events of an awaited call"),
        (lambda turn: [turn.request("clock")], "write a star, as in [*turn.request(...)"),
        (lambda turn: ["a"], "events: an element is a str, which is no event: make an event, as in turn.say(text)"),
        (lambda turn: [turn.generate()], "which is no event: await the call"),
        (lambda turn: [turn.say({"a": 1})], "say: must be text, not a dict; of a value use str() or json.dumps()"),
        (lambda turn: [turn.say(turn.ask("Why?"))], "say: must be text, not a coroutine; await the call, as in"),
        (lambda turn: [turn.update(a=turn.ask("Why?"))], "update.a: must be JSON; await the call, as in"),
        (lambda turn: [turn.update(a=object())], "update.a: must be JSON; of a pydantic model use model_dump"),
    ],
)
async def test_what_a_node_must_not_return_is_refused_with_what_to_write(returns: Any, advice: str) -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return returns(turn)  # type: ignore[no-any-return]

    assert advice in await detail(one_node(work))


async def test_the_result_of_an_item_must_be_json() -> None:
    async def each(_: ItemContext, __: Json) -> Json:
        return object()

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(str(await turn.map([1], each, retry=RetryPolicy(1))))]

    assert "result: must be JSON; of a pydantic model use model_dump" in await detail(one_node(work))
