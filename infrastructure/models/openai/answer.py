"""An answer put together from its parts: one part where it comes whole, many where it is streamed."""

import json

from domain.agents.error_text import shortened
from domain.json import storable_text
from domain.models.chat import AnswerCut, AnswerMalformed, AnswerTooLarge, ChatAnswer, ModelError, Usage
from domain.thread.size_limits import MAX_TEXT, bytes_of
from infrastructure.models.openai.completion import (
    Choice,
    Completion,
    PairedText,
    Part,
    read_parts,
    read_usage,
    text_of,
    usage_within,
)
from infrastructure.models.openai.failures import MAX_WORDS, failure_of, message_of, status_of, without
from infrastructure.models.openai.provider_data import Opaque
from infrastructure.models.openai.tool_calls import Calls

MAX_LABEL = 200
"""Characters that are kept of a model's name, and of a reason for an end."""


class Assembly:
    """Takes completions or chunks in their order; `answer` gives what they amount to."""

    def __init__(self, model: str, secret: str = "") -> None:
        """Start empty. `model` is the name to give where the endpoint gives none; `secret` is never told."""
        self._model = model
        self._secret = secret
        self._text: list[str] = []
        self._pairs = PairedText()
        self._thoughts: list[str] = []
        self._calls = Calls()
        self._extra = Opaque()
        self._refused = False
        self._others: list[Choice] = []
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._begun = False
        self._speaks = False
        self._usage_came_last = False
        self.accepted = False
        """Whether the endpoint has begun to answer."""
        self.done = False
        """Whether the endpoint said that nothing follows."""
        self.broken = False
        """Whether something came that is no part of an answer."""
        self.refusal: tuple[int | None, str] = (None, "")
        """The status that an error in the place of an answer named, and its words."""
        self.unread = bytearray()
        """What has come of an answer that is read once it is whole."""

    @property
    def finished(self) -> bool:
        """Whether the model said why it stopped."""
        return self._finish_reason is not None

    @property
    def may_go_on(self) -> bool:
        """Whether another call may follow, though the model said why it stopped: some say so after each call."""
        return bool(self._calls) and not (self.done or self._usage_came_last)

    @property
    def has_begun(self) -> bool:
        """Whether the model has written anything, be it a thought."""
        return self._speaks

    @property
    def usage(self) -> Usage | None:
        """What the endpoint reports so far."""
        return self._usage

    @property
    def written(self) -> str:
        """What the model wrote so far, for an estimate of its tokens: text, calls, and what else came with them."""
        unread = self.unread.decode("utf-8", "replace")
        beside = "".join(self._thoughts) or self._extra.written
        return storable_text("".join((*self._text, beside, self._calls.written, unread)))

    def add(self, completion: Completion) -> str:
        """Add a part and return the text that it brought. Raise a `ModelError` if it is the server giving up."""
        usage = read_usage(completion.usage)
        self._usage_came_last = usage is not None and self.finished and not completion.choices
        self._usage = usage or self._usage
        if completion.error is not None:
            raise self._given_up(completion.error)
        self._speaks = self._speaks or completion.speaks
        self._thoughts.append(completion.thoughts)
        self._model = completion.model if isinstance(completion.model, str) and completion.model else self._model
        ours = [choice for choice in completion.choices or () if choice and not _is_another(choice)]
        self._others += [choice for choice in completion.choices or () if choice and _is_another(choice)]
        return "".join(map(self._add_choice, ours))

    def look_for_usage(self, text: str) -> None:
        """Take only the usage out of a part of an answer that is broken already."""
        self._usage = usage_within(text) or self._usage

    def close(self) -> None:
        """Take notice of the mark that ends a stream."""
        self.done = True
        if not self.broken:
            self.finish()

    def end(self) -> str:
        """Take notice that nothing follows. Return the text that this brings."""
        first, text = (self._others[0].index if self._others else None), ""
        if not self._begun:  # the endpoint numbers its only answer otherwise than 0
            text = "".join(self._add_choice(choice) for choice in self._others if choice.index == first)
        half = self._pairs.end()
        self._text.append(half)
        return text + half

    def finish(self) -> None:
        """Take the answer as complete, though the model gave no reason for its end."""
        self._finish_reason = self._finish_reason or ("tool_calls" if self._calls else "stop")

    def answer(self) -> ChatAnswer:
        """Return the whole answer. Raise `AnswerMalformed` if there is none, `AnswerTooLarge` if it cannot be kept."""
        if not self._begun:
            raise AnswerMalformed("The model's endpoint answered without any choice.")
        reason = self._finish_reason or "stop"
        calls = self._calls.whole(reason)
        text = storable_text("".join(self._text))
        if bytes_of(text) > MAX_TEXT:
            raise AnswerTooLarge(f"The model's answer is larger than {MAX_TEXT} bytes.")
        return ChatAnswer(
            content=None if calls and not text else text,
            tool_calls=calls,
            finish_reason=storable_text(reason[:MAX_LABEL]),
            model=storable_text(self._model[:MAX_LABEL]),
            usage=self._usage,
            refused=self._refused,
            thoughts=storable_text("".join(self._thoughts)),
            extra=self._extra.whole(),
        )

    def quoted(self, text: str) -> str:
        """Return the beginning of a text of the endpoint's for an error."""
        return shortened(without(self._secret, text), MAX_WORDS)

    def _add_choice(self, choice: Choice) -> str:
        self._begun = True
        if choice.finish_reason:
            self._finish_reason = str(choice.finish_reason)
        part = choice.delta or choice.message or Part()
        self._extra.add(part.extra)
        for call in read_parts(part.tool_calls):
            self._calls.add(call, whole=part is choice.message)
        if isinstance(part.function_call, dict) and any(part.function_call.values()) and not part.tool_calls:
            for call in read_parts({"function": part.function_call}):
                self._calls.add(call, whole=part is choice.message)
        self._refused = self._refused or bool(text_of(part.refusal))
        text = self._pairs.add(text_of(part.content) or text_of(part.refusal))
        self._text.append(text)
        return text

    def _given_up(self, error: object) -> ModelError:
        """Return what an error in the place of an answer means: as a refusal would, while nothing was written."""
        said, status = message_of(error, self._secret), status_of(error)
        self.accepted = self._begun or self._usage is not None  # else it is a refusal, though with status 200
        if status is None or self.has_begun:
            return AnswerCut(f"The model's endpoint gave up: {said}")
        self.refusal, self.accepted = (status, json.dumps(error)), False
        return failure_of(status, said)


def _is_another(choice: Choice) -> bool:
    """Say whether a choice is another answer than the first. We ask for one; some endpoints send more."""
    return choice.index not in (None, 0, "0", "")
