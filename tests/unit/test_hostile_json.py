"""JSON of hostile shapes costs what its size costs. The tests count work, so they do not depend on the machine."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.json_body import read_json
from api.http.problems import MAX_FIELDS, BodyInvalid, decode_body
from api.schemas.requests import Rebuild
from domain.errors import InvalidInput
from domain.json import MAX_ITEMS, MAX_KEY_CHARACTERS, check_json
from domain.json_scan import count_items
from domain.models.answers import check_answer, is_blank
from domain.models.chat import MAX_TOOL_CALLS, AnswerTooLarge, ChatAnswer, ToolCall
from infrastructure.models.openai import provider_data, refusals
from infrastructure.models.openai.answer import AnswerBuilder
from infrastructure.models.openai.bodies import PIECE_BYTES, pieces, read_body
from infrastructure.models.openai.completion import read_completion, text_of
from infrastructure.models.openai.provider_data import ExtraFields
from infrastructure.models.openai.response import read_answer
from infrastructure.models.openai.tool_arguments import read_arguments
from infrastructure.models.openai.tool_calls import MAX_SLOW_CHARS, Braces

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('"\\,:[]{}aé😀\n')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('"\\,:[]{}a')), inner),
)


class Key(str):
    """A key that counts how often a path is made of it."""

    __slots__ = ()
    shown = 0

    def __str__(self) -> str:
        Key.shown += 1
        return super().__str__()

    __format__ = lambda self, _: str(self)  # noqa: E731


def items_in(value: Any) -> tuple[int, int]:
    """Return the items of a value, with a bracket as one, and its fields."""
    if not isinstance(value, dict | list):
        return 0, 0
    inner = [items_in(item) for item in (value.values() if isinstance(value, dict) else value)]
    own = len(value) if isinstance(value, dict) else 0
    return 1 + max(len(value) - 1, 0) + sum(i for i, _ in inner), own + sum(f for _, f in inner)


@given(VALUES)
def test_the_scan_counts_what_a_text_has(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert count_items(text.encode(), MAX_ITEMS) == items_in(value)


@given(st.text(st.sampled_from('"\\,:[]{}a1')).map(str.encode))
def test_the_scan_counts_of_a_text_that_is_no_json_at_least_what_was_read(text: bytes) -> None:
    for end in range(len(text), 0, -1):
        try:
            value, read = json.JSONDecoder().raw_decode(text[:end].decode())
        except ValueError:
            continue
        assert count_items(text, MAX_ITEMS).items >= items_in(value)[0], read
        return


def test_no_path_is_made_for_valid_items() -> None:
    Key.shown = 0
    check_json({Key("k"): [{Key("k"): 1}] * 1_000}, "values")
    assert Key.shown == 0
    with pytest.raises(InvalidInput) as caught:
        check_json({Key("k"): [1, float("inf")]}, "values")
    assert (caught.value.field, Key.shown) == ("values.k.1", 1)


def test_items_are_counted_on_all_levels_and_keys_are_short() -> None:
    half = MAX_ITEMS // 2 - 1
    check_json([[0] * half, [0] * half], "values")
    for value in ([[0] * half, [0] * (half + 1)], {str(n): n for n in range(MAX_ITEMS + 1)}):
        with pytest.raises(InvalidInput, match="20,000 items"):
            check_json(value, "values")
    check_json({"k" * MAX_KEY_CHARACTERS: 1}, "values")
    with pytest.raises(InvalidInput, match="keys may have 500 characters"):
        check_json({"k" * (MAX_KEY_CHARACTERS + 1): 1}, "values")


@pytest.mark.parametrize("item", ["1", "[]", "{}", '""', '{"a":1}'])
def test_a_body_with_too_many_items_is_refused_before_it_is_parsed(item: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("msgspec.json.decode", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(InvalidInput, match="20,000 items") as caught:
        read_json(f"[{','.join([item] * 100_000)}]".encode())
    assert caught.value.field == "body"


@pytest.mark.parametrize("body", ['{"a":1,"a":2}', '{"b":{"a":1,"\\u0061":2}}', '[{"a":{}},{"a":1,"b":":","a":1}]'])
def test_a_field_that_is_given_twice_is_found(body: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_json(body.encode())
    assert caught.value.field == "a"


def test_only_the_first_errors_of_a_body_are_described() -> None:
    for given_ in ({"projections": [1] * 19_000}, {"projections": ["a"], **{f"f{n}": 1 for n in range(19_000)}}):
        with pytest.raises(BodyInvalid) as caught:
            decode_body(Rebuild, given_)
        assert isinstance(caught.value.extra, list)
        assert (len(caught.value.extra), caught.value.count) == (MAX_FIELDS, 19_000)


def test_an_answer_with_too_many_items_or_bytes_is_too_large_and_keeps_its_usage() -> None:
    usage = '"usage": {"prompt_tokens": 7, "completion_tokens": 3}'
    for part in ("[" + "[]," * 30_000 + "[]]", '"' + "a" * 3_000_000 + '"'):
        with pytest.raises(AnswerTooLarge) as caught:
            read_completion(f'{{"choices": {part}, {usage}}}')
        assert caught.value.usage is not None
        assert caught.value.usage.completion_tokens == 3


def test_arguments_with_too_many_items_or_a_long_key_are_a_fault() -> None:
    assert "20,000 items" in read_arguments('{"a": [' + "[]," * 30_000 + "[]]}").fault
    assert "keys may have 500 characters" in read_arguments('{"' + "k" * 100_000 + '": [1, 2]}').fault
    assert "as written" in read_arguments('{"a": "' + "b" * 2_000_000 + '"}').fault


def test_the_items_of_all_calls_of_an_answer_are_counted_together() -> None:
    some = json.dumps({"a": [1] * 15_000})
    calls = [{"id": str(n), "function": {"name": "a", "arguments": some}} for n in range(2)]
    answer = AnswerBuilder("m")
    answer.add(read_completion(json.dumps({"choices": [{"message": {"tool_calls": calls}}]})))
    first, second = answer.build().tool_calls
    assert (first.fault, second.arguments) == ("", {})
    assert "Send fewer at a time" in second.fault


def test_an_answer_of_any_model_may_ask_for_so_many_calls() -> None:
    calls = tuple(ToolCall(str(n), "now", {}) for n in range(MAX_TOOL_CALLS + 1))
    check_answer(ChatAnswer(None, calls[1:], "tool_calls", "m"))
    with pytest.raises(AnswerTooLarge, match="more than 128 calls"):
        check_answer(ChatAnswer(None, calls, "tool_calls", "m"))


def test_merging_a_fragment_looks_at_no_entry_before_it(monkeypatch: Any) -> None:
    looked: list[object] = []
    key = provider_data._key

    def counted(entry: Any) -> str | None:
        looked.append(entry)
        return key(entry)

    monkeypatch.setattr(provider_data, "_key", counted)
    extra = ExtraFields()
    for n in range(1_000):
        extra.add({"details": [{"type": "a", "index": n % 500, "text": "b"}]})
    built = extra.build()["details"]
    assert [one["text"] for one in built] == ["bb"] * 500
    assert len(looked) < 4_000


def test_lists_within_lists_are_joined_once() -> None:
    nested: Any = "c"
    for _ in range(50):
        nested = ["a", nested, {"type": "text", "text": "b"}]
    assert text_of(nested) == "a" * 50 + "c" + "b" * 50


async def _few(body: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


@pytest.mark.parametrize("body", [b"data: {}\n\n" * 6_400, b"{}\n" * 6_400], ids=["events", "lines"])
async def test_other_tasks_run_while_thousands_of_events_are_read(body: bytes) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    answer = AnswerBuilder("m")
    with pytest.raises(Exception, match="ended before it was complete"):
        await read_answer(_few(body, len(body)), answer, lambda _: None, streamed=True)
    counting.cancel()
    assert turns >= 90


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_bodies_are_read_in_small_pieces_up_to_the_limit(encoding: str) -> None:
    plain = b"a" * 50_000_000
    body = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    stream = httpx.Response(200, headers={"content-encoding": encoding}, content=_few(body, 40_000))
    assert await read_body(stream, 1_000_000) is None
    whole = httpx.Response(200, headers={"content-encoding": encoding}, content=_few(body, 40_000))
    sizes = [len(piece) async for piece in pieces(whole)]
    assert (sum(sizes), max(sizes)) == (len(plain), PIECE_BYTES)
    unknown = httpx.Response(200, headers={"content-encoding": "br"}, content=_few(b"a", 1))
    with pytest.raises(httpx.DecodingError, match="br"):
        await read_body(unknown, 10)


def test_a_refusal_is_searched_up_to_a_limit() -> None:
    statements = list(refusals._some(iter(["only " * 10_000] * 1_000)))
    assert sum(map(len, statements)) <= 20_000
    assert refusals.rejected_field("\n" * 60_000 + " x", ["stream"]) is None
    assert refusals.rejected_field("only " * 12_000, ["stream"]) is None


@given(st.text(st.sampled_from('"\\{}[]a')), st.text(st.sampled_from('"\\{}[]a'), min_size=1))
def test_braces_of_long_pieces_are_followed_as_those_of_short_ones(first: str, second: str) -> None:
    text = json.dumps({"a": first, "b": [second]})
    long = '{"pad": "' + "p" * MAX_SLOW_CHARS + '", "c": ' + text + "}"
    for end in range(MAX_SLOW_CHARS + 1, len(long) + 1):
        at_once, slowly = Braces(), Braces()
        at_once.follow(long[:end])
        for at in range(0, end, 1_000):
            slowly.follow(long[at : min(at + 1_000, end)])
        at_once.follow(long[end:])
        slowly.follow(long[end:])
        assert at_once.are_closed == slowly.are_closed is True


def test_blank_texts_and_reasoning_of_any_length() -> None:
    assert is_blank("\u200b" * 300_000)
    assert is_blank("<think>" + "</" * 300_000)
    assert is_blank(" <Think>a</THINK> \n")
    assert not is_blank("<think>a</think>b")
    assert not is_blank("<think>a</thinking></think>b")
