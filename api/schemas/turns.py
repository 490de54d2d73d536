"""Answers about turns."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

from api.schemas.approvals import ApprovalView
from domain.agents.output import TEXT, Output
from domain.application.command_handler import checkpoint_of
from domain.application.queries.transcript import FinishedTurn, TranscriptMessage
from domain.application.thread_repository import LoadedThread
from domain.application.turns.user_code import call_user_code
from domain.budget.prices import Prices
from domain.json import Json
from domain.money import dollars
from domain.thread.events import ModelCalled, TurnCancelled, TurnCompleted, TurnEnd, TurnFailed, TurnRolledBack

TurnStatus: TypeAlias = Literal["completed", "failed", "cancelled", "rolled_back"]


class Accepted(Struct, frozen=True, omit_defaults=True):
    """A turn that continues in the background: it runs, is queued, or waits for a person.

    `approvals` is what the thread waits for, if the caller waited for the turn: the approvals that this turn needs, or
    the turn that it is queued behind.
    """

    status: Literal["processing", "enqueued", "waiting"]
    thread_id: UUID
    checkpoint: str
    turn_id: UUID
    approvals: Sequence[ApprovalView] = ()
    question: str | None = None
    """What the customer is asked, if the turn waits for the customer: the thread's next message is the answer."""


class TurnUsage(Struct, frozen=True):
    """A turn's usage of models. `cached_tokens` of the prompts' tokens were in the endpoints' caches."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    cached_tokens: int

    @classmethod
    def of(cls, calls: Sequence[ModelCalled], prices: Prices) -> Self:
        """Sum up calls, and price them."""
        prompt, completion = sum(one.prompt_tokens for one in calls), sum(one.completion_tokens for one in calls)
        cost, cached = sum(map(prices.of_call, calls)), sum(one.cached for one in calls)
        return cls(len(calls), prompt, completion, dollars(cost), cached)


class TurnView(Struct, frozen=True):
    """A turn that has ended, with its messages from the user's on.

    `reason` says why it failed, how it was cancelled, or, of a completed turn, what limits its answer. `truncated` is
    true if the messages have more than 4 MB and the first are left out, and absent otherwise. `output` is the value of
    an answer that is JSON, because the request or the agent has an output; it is absent from all others.
    """

    status: TurnStatus
    thread_id: UUID
    turn_id: UUID
    checkpoint: str
    answer: str | None
    messages: Sequence[TranscriptMessage]
    usage: TurnUsage
    reason: str | None = None
    detail: str | None = None
    truncated: bool | UnsetType = UNSET
    output: Json | UnsetType = UNSET


class Cancelling(Struct, frozen=True):
    """A cancelled turn: it has ended (`cancelled`), or ends once the worker that runs it is notified (`cancelling`)."""

    status: Literal["cancelling", "cancelled"]
    thread_id: UUID
    turn_id: UUID
    checkpoint: str


def turn_view(
    loaded: LoadedThread,
    finished: FinishedTurn,
    prices: Prices,
    wanted: Output[Any] = TEXT,
    *,
    truncated: bool = False,
) -> TurnView:
    """Show a turn that has ended. `loaded` is the thread right after it, `wanted` what the answer was to be."""
    end = finished.end
    answers = (m.content for m in reversed(finished.messages) if m.role == "assistant" and m.content is not None)
    answer = next(answers, None)
    return TurnView(
        status=_STATUS[type(end)],
        thread_id=loaded.thread_id,
        turn_id=end.turn_id,
        checkpoint=checkpoint_of(loaded),
        answer=answer,
        messages=finished.messages,
        usage=TurnUsage.of(finished.calls, prices),
        reason=_reason(end),
        detail=end.detail if isinstance(end, TurnFailed) else None,
        truncated=truncated or UNSET,
        output=_value(wanted, answer) if isinstance(end, TurnCompleted) else UNSET,
    )


def _value(wanted: Output[Any], answer: str | None) -> Json | UnsetType:
    """Return the value of an answer; UNSET if it is text, or a node of the agent's wrote it and it does not fit."""
    if not wanted.schema or answer is None:
        return UNSET
    try:
        return call_user_code(wanted.check_message, answer)
    except Exception:  # noqa: BLE001  (the check may be the author's code)
        return UNSET


_STATUS: Mapping[type[TurnEnd], TurnStatus] = {
    TurnCompleted: "completed",
    TurnFailed: "failed",
    TurnCancelled: "cancelled",
    TurnRolledBack: "rolled_back",
}


def _reason(end: TurnEnd) -> str | None:
    match end:
        case TurnFailed(reason=reason) | TurnCompleted(reason=reason):
            return reason
        case TurnCancelled(how=how):
            return how
        case _:
            return None
