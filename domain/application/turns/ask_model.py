"""Questions to a model outside of the conversation: a node's or an item's `ask`.

The answer is recorded as soon as it is there. After a crash the next attempt uses it instead of paying for another one.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from domain.agents.output import Output
from domain.application.turns.model_calls import AnsweredCall, ModelCall, PreparedPrompt
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.token_counting import count_tokens
from domain.errors import PromptTooLarge, TurnIsOver
from domain.models.answers import finish_of
from domain.models.chat import MESSAGE_OVERHEAD, AnswerInvalid, ChatMessage, OnDelta
from domain.thread.codec import to_json
from domain.thread.commands import RecordAnswer
from domain.thread.events import ModelAnswered

T = TypeVar("T")

SCHEMA_HINT = "Answer only with a JSON object that fits this JSON schema:\n{schema}"

CORRECTION = "That does not fit: {error}. Answer again, only with a JSON object that fits the JSON schema."


@dataclass(frozen=True)
class ModelQuestion(Generic[T]):
    """A question to a model. `number` counts the questions of the node or of the item, from 0.

    `before` counts the digests of the questions that the attempt at the node or item has asked so far.
    `on_delta` and `retract` show the answer while it is written: see `ModelCall`. `model` None: as the policy chooses.
    """

    prompt: str
    instructions: str
    output: Output[T]
    number: int
    before: dict[str, int]
    item: int | None = None
    fan_out: int = 0
    model: str | None = None
    on_delta: OnDelta | None = None
    retract: Callable[[], None] | None = None
    item_node: str = ""

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """The prompt. Models without a structured mode read the schema in it."""
        wanted = self.output.format
        hint = SCHEMA_HINT.format(schema=to_json(wanted.schema)) if wanted else ""
        system = "\n\n".join(filter(None, (self.instructions, hint)))
        user = ChatMessage("user", self.prompt)
        return (ChatMessage("system", system), user) if system else (user,)


async def ask_model(node: NodeAttempt, question: ModelQuestion[T]) -> tuple[T, str]:
    """Return the model's answer, or the recorded one of an attempt that crashed; and the text that the model wrote.

    An answer that does not fit is corrected once: the model reads the error.

    Raises:
        ModelError: no model answered; `AnswerInvalid`: the second answer does not fit either.
        BudgetExhausted: too little is left to spend.
        PromptTooLarge: the prompt fits into no model's window.
        TurnIsOver: the attempt at the node is over.
    """
    messages, step = question.messages, node.state.turn.step
    digest = digest_of(messages)
    known = _recorded(node, question, digest)
    if known is not None:
        return question.output.parse(known), known
    made = await _call(node, question, messages, digest)
    value = _parsed(question.output, made)
    if isinstance(value, AnswerInvalid):
        correction = CORRECTION.format(error=value.why)
        again = (*messages, ChatMessage("assistant", made.answer.content), ChatMessage("user", correction))
        made = await _call(node, question, again, digest)
        value = _parsed(question.output, made)
    answered = ModelAnswered(
        *(question.number, made.answer.content, digest, question.prompt, question.instructions),
        finish=finish_of(made.answer),
        item=question.item,
        fan_out=question.fan_out,
        fits=not isinstance(value, AnswerInvalid),
        item_node=question.item_node,
    )
    run = node.run
    if not await node.report(RecordAnswer(run.turn_id, step, answered, run.number), durable=False):
        raise TurnIsOver
    if isinstance(value, AnswerInvalid):
        raise value
    return value, made.answer.content or ""


def _parsed(output: Output[T], made: AnsweredCall) -> T | AnswerInvalid:
    """Return the value of an answer, or how it does not fit."""
    try:
        return output.parse(made.answer.content or "")
    except AnswerInvalid as error:
        return error


def _recorded(node: NodeAttempt, question: ModelQuestion[T], digest: str) -> str | None:
    """Return the recorded answer: the first to this question that the attempt has not asked for yet.

    The order of different questions does not matter: when several are asked at a time, attempts differ in it.
    """
    place, index = (question.item, question.fan_out, digest), question.before.get(digest, 0)
    question.before[digest] = index + 1
    known = [a.content for a in node.state.turn.answers if (a.item, a.fan_out, a.question) == place]
    return known[index] if index < len(known) else None


def digest_of(messages: Sequence[ChatMessage]) -> str:
    """Return the digest of a question: 16 hexadecimal digits."""
    return hashlib.sha256(to_json(messages).encode()).hexdigest()[:16]


async def _call(
    node: NodeAttempt, question: ModelQuestion[T], messages: tuple[ChatMessage, ...], digest: str
) -> AnsweredCall:
    counter, size = node.run.services.tokens, MESSAGE_OVERHEAD * len(messages)
    for message in messages:
        size += await count_tokens(counter, message.content or "")

    async def build(limit: int) -> PreparedPrompt:
        if size > limit:
            raise PromptTooLarge(size, limit)
        return PreparedPrompt(messages, size)

    call = ModelCall(
        node,
        build,
        on_delta=question.on_delta,
        retract=question.retract,
        can_shrink=False,
        model=question.model,
        output=question.output.format,
        question=digest,
    )
    return await call.answer()
