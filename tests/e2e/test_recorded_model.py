"""The recorded model finds the recorded answer, however much of the front is missing, and never guesses one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from litestar.testing import AsyncTestClient

from domain.prompt.assemble import SHORTENED
from examples.airline.recordings import Conversation, Message, concatenated, conversations
from tests.fakes import recorded_model
from tests.fakes.recorded_memory import ASKED
from tests.fakes.recorded_model import NotRecordedError, answer_to, recorded_answer

HELLO: Message = {"role": "user", "content": "hello"}
YES: Message = {"role": "user", "content": "yes"}
LONG = 200


def answers() -> Iterator[tuple[Conversation, int]]:
    """Every place at which the model has spoken."""
    for conversation in conversations().values():
        for place, message in enumerate(conversation.messages):
            if message["role"] == "assistant":
                yield conversation, place


@pytest.mark.parametrize("kept", [1, 2, 7, 100])
def test_the_last_messages_are_enough(kept: int) -> None:
    for conversation, place in answers():
        asked = conversation.messages[max(place - kept, 0) : place]
        assert recorded_answer(str(conversation.thread_id), asked) == conversation.messages[place]


def test_a_question_may_be_pinned_before_the_cut() -> None:
    for conversation, place in answers():
        messages = conversation.messages
        question = max(index for index in range(place) if messages[index]["role"] == "user")
        if question < place - 2:
            asked = [messages[question], messages[place - 1]]
            assert recorded_answer(str(conversation.thread_id), asked) == messages[place]


def test_a_shortened_text_is_known_by_its_beginning() -> None:
    for conversation, place in answers():
        last = conversation.messages[place - 1]
        if len(last["content"]) > LONG:
            shortened = {**last, "content": last["content"][:LONG] + SHORTENED}
            assert recorded_answer(str(conversation.thread_id), [shortened]) == conversation.messages[place]


def test_what_was_not_recorded_is_refused() -> None:
    first = next(iter(conversations().values()))
    thread, messages = str(first.thread_id), first.messages
    for asked in ([], [HELLO], [*messages[:1], HELLO], [HELLO, *messages[2:3]], [YES, YES, *messages[:1]], messages):
        with pytest.raises(NotRecordedError):
            recorded_answer(thread, asked)
    for other in ("", "no uuid", "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(NotRecordedError):
            recorded_answer(other, messages[:1])


def test_of_two_places_that_fit_none_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = Conversation("twice", [HELLO, *([YES, {"role": "assistant", "content": "Really?"}] * 2)])
    monkeypatch.setattr(recorded_model, "conversations", lambda: {twice.thread_id: twice})
    with pytest.raises(NotRecordedError, match="2 times"):
        recorded_answer(str(twice.thread_id), [YES])
    assert recorded_answer(str(twice.thread_id), [HELLO, YES])["content"] == "Really?"


@pytest.mark.parametrize("first", [0, 10, 20, 30])
@pytest.mark.parametrize("kept", [5, 40, 1000])
def test_in_a_concatenation_the_last_messages_are_enough(first: int, kept: int) -> None:
    long = concatenated(first, 200)
    for place, message in enumerate(long.messages):
        if message["role"] == "assistant":
            asked = long.messages[max(place - kept, 0) : place]
            assert recorded_answer(str(long.thread_id), asked) == message


def test_a_beginning_that_comes_again_later_is_the_beginning_as_long_as_nothing_is_missing() -> None:
    long = concatenated(0, 200)
    again = [place for place, message in enumerate(long.messages) if message == long.messages[0]]
    assert len(again) > 1
    assert recorded_answer(str(long.thread_id), long.messages[:1]) == long.messages[1]
    flight: Message = {"role": "user", "content": "I'll go with the first option, Flight HAT136 & HAT039."}
    with pytest.raises(NotRecordedError, match="2 times"):
        recorded_answer(str(long.thread_id), [flight])


def test_a_pinned_question_tells_two_places_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: Message = {"role": "user", "content": "And my bag?"}
    first, second = ({"role": "assistant", "content": said} for said in ("Really?", "Surely?"))
    parts = Conversation("parts", [HELLO, YES, first, ask, HELLO, YES, second])
    monkeypatch.setattr(recorded_model, "conversations", lambda: {parts.thread_id: parts})
    with pytest.raises(NotRecordedError, match="2 times"):
        recorded_answer(str(parts.thread_id), [YES])
    assert recorded_answer(str(parts.thread_id), [ask, YES]) == second


MEMORY: Message = {"role": "system", "content": f"{ASKED} between a customer and an airline."}

TALK = """\
facts:
- The customer is mia_li_3668.
assistant: Which reservation do you mean?
user: It is NO6JO3, for $250. Please cancel it.
get_reservation_details: {"reservation_id": "NO6JO3"}
assistant: It cannot be refunded. Shall I go on?
"""


def memory(messages: list[Message]) -> dict[str, Any]:
    answer, purpose = answer_to("", {"messages": messages})
    assert purpose == "memory"
    written: dict[str, Any] = json.loads(answer["content"])
    return written


def test_who_wants_a_memory_gets_an_extract_of_what_was_sent() -> None:
    expected = {
        "facts": ["The customer is mia_li_3668.", "It is NO6JO3, for $250."],
        "decisions": ["Please cancel it."],
        "open_questions": ["Shall I go on?"],
        "tool_outcomes": ['get_reservation_details: {"reservation_id": "NO6JO3"}'],
    }
    talk: Message = {"role": "user", "content": TALK}
    assert memory([MEMORY, talk]) == expected
    assert memory([MEMORY, {"role": "user", "content": json.dumps(expected)}]) == expected


def test_a_memory_stays_short_and_has_nothing_of_its_own() -> None:
    for conversation in conversations().values():
        lines = [f"{m.get('name') or m['role']}: {m['content']}" for m in conversation.messages if m["content"]]
        sent = "\n".join(lines)
        written = memory([MEMORY, {"role": "user", "content": sent}])
        assert all(entry in sent for entries in written.values() for entry in entries)
        assert all(len(entries) <= 8 for entries in written.values())
        assert written["tool_outcomes"] or "call" not in str(conversation.messages)


def test_only_who_asks_for_it_gets_a_memory() -> None:
    with pytest.raises(NotRecordedError):
        answer_to("", {"messages": [{"role": "system", "content": "Be brief."}, HELLO]})


async def test_what_each_call_took_is_listed() -> None:
    first = next(iter(conversations().values()))
    async with AsyncTestClient(recorded_model.create_app()) as client:
        body = {"model": "small", "messages": [*first.messages[:1]]}
        path, headers = "/v1/chat/completions", {recorded_model.THREAD: str(first.thread_id)}
        answer = (await client.post(path, json=body, headers=headers)).json()
        asked = await client.post(path, json={"messages": [MEMORY, {"role": "user", "content": TALK}]})
        assert asked.status_code == 200
        refused = await client.post(path, json={"messages": [HELLO]}, headers=headers)
        assert refused.status_code == 409
        listed = (await client.get("/usage")).json()
        assert [call["purpose"] for call in listed] == ["answer", "memory"]
        assert listed[0] == {"thread": str(first.thread_id), "purpose": "answer", "model": "small", **answer["usage"]}
        assert (await client.get("/usage?after=1")).json() == listed[1:]
        assert (await client.get("/answered")).json() == {str(first.thread_id): 1}
