"""Answers with the prompts that models were sent: each piece, and why it was there."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

from api.schemas.view import view_of
from domain.application.queries.prompts import PromptsPage, RecordedPrompt, RecordedQuestion
from domain.ids import ThreadId
from domain.json import JsonObject
from domain.prompt.canonical import canonical
from domain.prompt.reconstruct import Kind, ReconstructedPrompt
from domain.thread.events import ModelCalled


class _Named(Struct):
    name: str


class _Declared(Struct):
    function: _Named


_decode_tools = msgspec.json.Decoder(Sequence[_Declared]).decode


class PieceView(Struct, frozen=True):
    """A piece of a prompt, its tokens, and why it was there.

    `version` is the version of its message; if the piece is only a part of the message, `whole` is false.
    """

    kind: Kind
    role: str
    text: str | None
    tokens: int
    because: str
    version: int | None
    whole: bool


class CallView(Struct, frozen=True):
    """The call of a model with the prompt: which model answered, why that one, and the endpoint's counts.

    `difference` is the endpoint's count of the prompt's tokens minus ours; `cached_tokens` were in its cache.
    """

    model: str
    provider: str
    because: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    difference: int
    duration_ms: int
    finish_reason: str
    cached_tokens: int


class PromptView(Struct, frozen=True):
    """A prompt of `tokens` tokens, at most `limit`: its pieces, and the messages as they were sent.

    `everything` is the number of tokens of a prompt with the whole conversation, and `saved` the difference; both are
    null if an older release recorded the prompt. It is `exact` if every text was found as it was then.
    """

    version: int
    at: datetime
    tokens: int
    limit: int
    everything: int | None
    saved: int | None
    exact: bool
    pieces: Sequence[PieceView]
    messages: Sequence[JsonObject]
    call: CallView | None

    @classmethod
    def of(cls, found: RecordedPrompt) -> "PromptView":
        """Show a prompt."""
        assembled, prompt, called = found.assembled, found.prompt, found.called
        return view_of(
            cls,
            found,
            tokens=assembled.tokens,
            limit=assembled.limit,
            saved=None if found.everything is None else found.everything - assembled.tokens,
            exact=prompt.exact,
            pieces=[view_of(PieceView, piece, version=int(piece.version) or None) for piece in prompt.pieces],
            messages=[msgspec.to_builtins(message) for message in canonical(prompt.messages, _declared(prompt))],
            call=_call_view(called, assembled.tokens) if called else None,
        )


class QuestionView(Struct, frozen=True):
    """A question that a node asked a model outside of the conversation (`turn.ask`), or an item of its list.

    `item` is the index of the item in the node's list number `fan_out`, and `item_node` the node of the graph that the
    item runs, "" if it runs none. A wrong answer that was corrected is in the log
    only as a call of the model.
    """

    version: int
    at: datetime
    instructions: str
    prompt: str
    answer: str | None
    item: int | None
    fan_out: int
    item_node: str
    call: CallView | None

    @classmethod
    def of(cls, found: RecordedQuestion) -> "QuestionView":
        """Show a question."""
        answered, called = found.answered, found.called
        call = _call_view(called, called.counted or called.prompt_tokens) if called else None
        return view_of(cls, answered, version=found.version, at=found.at, answer=answered.content, call=call)


class ContextView(Struct, frozen=True):
    """The prompts of a turn and its nodes' questions to models, each in their order.

    A page ends after about 1 MB. `next_after` is the parameter `after` of the next page, null on the last one.
    """

    thread_id: UUID
    turn_id: UUID
    prompts: Sequence[PromptView]
    questions: Sequence[QuestionView]
    next_after: int | None = None


def context_view(thread_id: ThreadId, turn_id: UUID, page: PromptsPage) -> ContextView:
    """Show a turn's prompts and questions."""
    prompts, questions = map(PromptView.of, page.prompts), map(QuestionView.of, page.questions)
    return ContextView(thread_id, turn_id, list(prompts), list(questions), page.next_after)


def _declared(prompt: ReconstructedPrompt) -> Sequence[str]:
    """Return the names of the tools that were declared with a prompt."""
    text = next((piece.text for piece in prompt.pieces if piece.kind == "tools"), None)
    if not text:
        return ()
    try:
        return [declared.function.name for declared in _decode_tools(text)]
    except msgspec.MsgspecError:  # the text was not stored
        return ("unknown",)


def _call_view(called: ModelCalled, counted: int) -> CallView:
    return view_of(CallView, called, difference=called.prompt_tokens - counted, cached_tokens=called.cached)
