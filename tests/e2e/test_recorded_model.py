"""The recorded model finds the recorded answer, however much of the front is missing, and never guesses one."""

from collections.abc import Iterator

import pytest

from domain.context import SHORTENED
from examples.airline import recorded_model
from examples.airline.recorded_model import NotRecordedError, recorded_answer
from examples.airline.recordings import Conversation, Message, conversations

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
