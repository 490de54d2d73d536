"""Builds a `ChatAnswer` from a whole completion, or from the chunks of a streamed one."""

import codecs
import json

from domain.json import storable_text
from domain.models.chat import AnswerCut, AnswerMalformed, AnswerTooLarge, ChatAnswer, ModelError, Usage
from domain.thread.size_limits import MAX_TEXT_BYTES, bytes_of
from infrastructure.models.openai import completion
from infrastructure.models.openai.failures import failure_of, message_of, status_of
from infrastructure.models.openai.provider_data import MESSAGE_FIELDS, ExtraFields, extra_of
from infrastructure.models.openai.surrogates import UTF_16
from infrastructure.models.openai.tool_calls import ToolCalls

MAX_LABEL_CHARS = 200
"""What is kept of a model's name, and of a finish reason."""


MAX_REFUSAL_CHARS = 64 * 1024
"""Characters of an error instead of an answer that are searched for what the endpoint refuses."""


class AnswerBuilder:
    """Takes completions or chunks in their order; `build` returns the answer."""

    def __init__(self, model: str, secret: str = "") -> None:
        """Start empty. `model` is the name if the endpoint reports none; errors do not contain `secret`."""
        self._model = model
        self.secret = secret
        self._text: list[str] = []
        self._join = codecs.getincrementaldecoder(UTF_16[0])(UTF_16[1]).decode
        self._thoughts: list[str] = []
        self._calls = ToolCalls()
        self._extra = ExtraFields()
        self._refused = False
        self._other_choices: list[completion.Choice] = []
        self._finish_reason: str | None = None
        self._has_choice = False
        self._usage_came_last = False
        self.usage: Usage | None = None
        """What the endpoint reported so far."""
        self.has_output = False
        """Whether the model has written anything, reasoning included."""
        self.accepted = False
        """Whether the endpoint has begun to answer."""
        self.done = False
        """Whether the endpoint said that nothing follows."""
        self.broken = False
        """Whether something came that is no part of an answer."""
        self.refusal: tuple[int | None, str] = (None, "")
        """The status that an error instead of an answer named, and its words."""
        self.unread = bytearray()
        """What has come of a body that is parsed once it is whole."""

    @property
    def finished(self) -> bool:
        """Whether the model gave a finish reason."""
        return self._finish_reason is not None

    @property
    def more_calls_may_follow(self) -> bool:
        """Whether another tool call may follow the finish reason: some endpoints send one after each call."""
        return bool(self._calls) and not (self.done or self._usage_came_last)

    @property
    def written(self) -> str:
        """What the model wrote so far, for an estimate of its tokens: text, calls, reasoning and extra fields."""
        unread = self.unread.decode("utf-8", "replace")
        reasoning = "".join(self._thoughts) or self._extra.written
        return storable_text("".join((*self._text, reasoning, self._calls.written, unread)))

    def add(self, part: completion.Completion) -> str:
        """Add a completion or a chunk and return its text. Raise a `ModelError` if it is an error of the server."""
        usage = completion.read_usage(part.usage)
        self._usage_came_last = usage is not None and self.finished and not part.choices
        self.usage = usage or self.usage
        if part.error is not None:
            raise self._failure(part.error)
        self.has_output = self.has_output or part.has_output
        self._thoughts.append(part.thoughts)
        self._model = part.model[:MAX_LABEL_CHARS] if isinstance(part.model, str) and part.model else self._model
        choices = [choice for choice in part.choices or () if choice]
        for other in filter(_is_another, choices):
            if not self._other_choices or other.index == self._other_choices[0].index:
                self._other_choices.append(other)
        return "".join([self._add_choice(choice) for choice in choices if not _is_another(choice)])

    def close(self) -> None:
        """Note the mark that ends a stream."""
        self.done = True
        if not self.broken:
            self.finish()

    def end(self) -> str:
        """Note that nothing follows, and return the text that was held back until now."""
        text = ""
        if not self._has_choice and self._other_choices:  # the endpoint numbers its only answer otherwise than 0
            text = "".join(map(self._add_choice, self._other_choices))
        half = self._join(b"", final=True)
        self._text.append(half)
        return text + half

    def finish(self) -> None:
        """Take the answer as complete, though the endpoint sent no finish reason."""
        self._finish_reason = self._finish_reason or ("tool_calls" if self._calls else "stop")

    def build(self) -> ChatAnswer:
        """Return the answer. Raise `AnswerMalformed` if there is none, `AnswerTooLarge` if it cannot be stored."""
        if not self._has_choice:
            raise AnswerMalformed("The model's endpoint answered without any choice.")
        reason = self._finish_reason or "stop"
        calls = self._calls.build(reason)
        text = storable_text("".join(self._text))
        if bytes_of(text) > MAX_TEXT_BYTES:
            raise AnswerTooLarge(f"The model's answer is larger than {MAX_TEXT_BYTES} bytes.")
        return ChatAnswer(
            content=None if calls and not text else text,
            tool_calls=calls,
            finish_reason=storable_text(reason[:MAX_LABEL_CHARS]),
            model=storable_text(self._model[:MAX_LABEL_CHARS]),
            usage=self.usage,
            refused=self._refused,
            thoughts=storable_text("".join(self._thoughts)),
            extra=self._extra.build(),
        )

    def _add_choice(self, choice: completion.Choice) -> str:
        self._has_choice = True
        if choice.finish_reason:
            self._finish_reason = str(choice.finish_reason)[:MAX_LABEL_CHARS]
        whole = choice.delta is None
        message = (choice.message if whole else choice.delta) or {}
        self._extra.add(extra_of(message, MESSAGE_FIELDS))
        calls, older = message.get("tool_calls"), message.get("function_call")
        if isinstance(older, dict) and any(older.values()) and not calls:
            calls = {"function": older}
        for call in completion.read_tool_calls(calls):
            self._calls.add(call, whole=whole)
        refusal = completion.text_of(message.get("refusal"))
        self._refused = self._refused or bool(refusal)
        text = self._join((completion.text_of(message.get("content")) or refusal).encode(*UTF_16))
        self._text.append(text)
        return text

    def _failure(self, error: object) -> ModelError:
        """Return what an error instead of an answer means: the same as an error status, unless output came before."""
        said, status = message_of(error, self.secret), status_of(error)
        self.accepted = self._has_choice or self.usage is not None  # else it is a refusal, though with status 200
        if status is None or self.has_output:
            return AnswerCut(f"The model's endpoint gave up: {said}")
        words = json.dumps(error)
        self.refusal, self.accepted = (status, words if len(words) <= MAX_REFUSAL_CHARS else said), False
        return failure_of(status, said)


def _is_another(choice: completion.Choice) -> bool:
    """Say whether a choice is another answer than the first. We ask for one; some endpoints send more."""
    return choice.index not in (None, 0, "0", "")
