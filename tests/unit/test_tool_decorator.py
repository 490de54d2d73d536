"""Tools made of functions: their description for the model, and the validation of arguments."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from domain.agents.tools import DEFAULT_TIMEOUT, ToolContext, tool
from domain.errors import InvalidInput, ToolError
from domain.ids import ThreadId

CALL = ToolContext(ThreadId(UUID(int=1)), "call_1", "key-1")


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Address(BaseModel):
    city: str
    zip: int = 0


@dataclass
class Order:
    id: int
    size: Size


@tool(idempotent=True, timeout=3)
async def order(
    item: str,
    count: Annotated[int, Field(ge=1, description="How many")] = 1,
    size: Size = Size.SMALL,
    to: Address | None = None,
    speed: Literal["slow", "fast"] = "slow",
) -> str:
    """Order something.

    It will come.
    """
    return f"{count} x {item} {size.value} {to.city if to else 'here'} {speed}"


@tool
async def whoami(context: ToolContext, greeting: str = "hi") -> str:
    return f"{greeting} {context.call_id} {context.idempotency_key}"


def test_is_named_and_described_by_its_function() -> None:
    assert order.name == order.spec.name == "order"
    assert order.spec.description == "Order something.\n\nIt will come."
    assert whoami.spec.description == "whoami"


def test_has_the_settings_it_was_given_or_cautious_ones() -> None:
    assert (order.timeout, order.idempotent) == (3, True)
    assert (whoami.timeout, whoami.idempotent) == (DEFAULT_TIMEOUT, False)
    assert tool(name="who")(whoami_function).name == "who"


async def whoami_function() -> str:
    return "me"


def test_tells_the_types_of_its_parameters() -> None:
    schema = order.spec.parameters
    assert schema["type"] == "object"
    assert schema["required"] == ["item"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["item"] == {"type": "string"}
    assert properties["count"] == {"type": "integer", "minimum": 1, "description": "How many", "default": 1}
    assert properties["speed"]["enum"] == ["slow", "fast"]
    assert schema["$defs"]["Size"]["enum"] == ["s", "l"]


def test_does_not_show_its_context() -> None:
    assert set(whoami.spec.parameters["properties"]) == {"greeting"}
    assert "required" not in whoami.spec.parameters


async def test_is_run_with_valid_arguments_and_its_defaults() -> None:
    assert await order.run({"item": "tea"}, CALL) == "1 x tea s here slow"
    given = {"item": "tea", "count": 2, "size": "l", "to": {"city": "Ulm"}, "speed": "fast"}
    assert await order.run(given, CALL) == "2 x tea l Ulm fast"


async def test_is_given_the_context_of_the_call() -> None:
    assert await whoami.run({"greeting": "hello"}, CALL) == "hello call_1 key-1"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "item"),
        ({"item": None}, "item"),
        ({"item": "tea", "count": 0}, "count"),
        ({"item": "tea", "count": "many"}, "count"),
        ({"item": "tea", "colour": "red"}, "colour"),
        ({"item": "tea", "to": {"zip": 1}}, "to.city"),
    ],
)
async def test_tells_the_model_what_is_wrong_with_its_arguments(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ToolError, match=f"order cannot be called like this: .*{named}: "):
        await order.run(arguments, CALL)


async def test_cannot_be_given_its_context_by_the_model() -> None:
    with pytest.raises(ToolError, match="context"):
        await whoami.run({"context": {"call_id": "mine"}}, CALL)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("text", "text"),
        (None, "null"),
        ([1, 2.5, True], "[1,2.5,true]"),
        ({"ü": "ß"}, '{"ü":"ß"}'),
        (Order(1, Size.LARGE), '{"id":1,"size":"l"}'),
        (Address(city="Ulm"), '{"city":"Ulm","zip":0}'),
    ],
)
async def test_answers_with_text_or_else_json(result: Any, text: str) -> None:
    @tool
    async def answer() -> Any:
        """Answer."""
        return result

    assert await answer.run({}, CALL) == text


async def test_passes_on_the_functions_own_errors() -> None:
    @tool
    async def fail() -> str:
        """Fail."""
        raise ToolError("The shop is closed.")

    with pytest.raises(ToolError, match="closed"):
        await fail.run({}, CALL)


async def test_a_parameter_may_have_any_name() -> None:
    @tool
    async def odd(schema: str, json: int, model_config: bool, model_dump: str = "d") -> str:  # noqa: FBT001
        """Take names that a library uses itself."""
        return f"{schema} {json} {model_config} {model_dump}"

    assert list(odd.spec.parameters["properties"]) == ["schema", "json", "model_config", "model_dump"]
    assert odd.spec.parameters["required"] == ["schema", "json", "model_config"]
    assert await odd.run({"schema": "s", "json": 1, "model_config": True}, CALL) == "s 1 True d"


def test_a_parameter_without_a_name_or_a_type_is_refused_when_the_tool_is_made() -> None:
    async def many(*words: str) -> str:
        return " ".join(words)

    async def untyped(word) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return str(word)

    for function, parameter in ((many, r"\*words: str"), (untyped, "word")):
        with pytest.raises(TypeError, match=f"The tool {function.__name__} cannot have the parameter {parameter}"):
            tool(function)


@pytest.mark.parametrize("name", ["browser.tabs.open", "größe", "two words", "", "x" * 65, "echo\n", "<lambda>"])
def test_a_name_that_no_endpoint_takes_is_refused_when_the_tool_is_made(name: str) -> None:
    async def anything() -> str:
        return ""

    anything.__name__ = name
    with pytest.raises(InvalidInput, match=r"1 to 64 ASCII letters, digits, _ or -. Set one with @tool\(name="):
        tool(anything)


@pytest.mark.parametrize("name", ["a", "x" * 64, "get_weather-2"])
def test_any_other_name_is_taken(name: str) -> None:
    assert tool(name=name)(whoami_function).name == name
