"""The transcript of a thread: its messages and tool calls as chat messages, read from the log in pages.

An assistant's message carries the calls that it requests; a tool's message has its call's outcome.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.application.thread_reader import PAGE
from domain.application.thread_repository import ThreadRepository
from domain.errors import CorruptLog
from domain.ids import START, ThreadId, Version
from domain.models.answers import Finish
from domain.models.chat import ToolCall
from domain.thread import events
from domain.thread.codec import Recorded
from domain.thread.events import (
    CallOutcome,
    Event,
    MessageAppended,
    ModelCalled,
    ToolRequested,
    TurnEnd,
    TurnStarted,
    text_of,
)

Answer: TypeAlias = events.ToolSucceeded | events.ToolFailed | events.ToolOutcomeUnknown | events.ApprovalDenied
"""The events that a tool's message is made of."""


class TranscriptMessage(Struct, frozen=True, omit_defaults=True):
    """A message in the form of chat completions, with its version in the log."""

    version: Version
    recorded_at: datetime
    role: Literal["user", "assistant", "tool"]
    content: str | None
    tokens: int
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    outcome: CallOutcome | None = None
    partial: bool = False
    finish: Finish = ""


class FinishedTurn(Struct, frozen=True):
    """A finished turn: its last event and version, its messages from the user's on, its model calls, and its start.

    A turn that was queued and never began has no start.
    """

    end: TurnEnd
    version: Version
    messages: Sequence[TranscriptMessage]
    calls: Sequence[ModelCalled] = ()
    started: TurnStarted | None = None


@dataclass(frozen=True)
class Transcript:
    """Reads the messages of a thread."""

    repository: ThreadRepository
    thread_id: ThreadId

    async def finished(self, recorded: Sequence[Recorded]) -> FinishedTurn:
        """Return a finished turn. `recorded` are all of its events; only its end, if it never began.

        Raises:
            CorruptLog: the last event is not a turn's end.
        """
        last = recorded[-1]
        if not isinstance(last.event, TurnEnd):
            raise CorruptLog(f"{self.thread_id}: version {last.version} is no turn's end")
        calls = [each.event for each in recorded if isinstance(each.event, ModelCalled)]
        messages = [message async for message in self._messages(_each(recorded))]
        started = next((each.event for each in recorded if isinstance(each.event, TurnStarted)), None)
        return FinishedTurn(last.event, last.version, messages, calls, started)

    def read(
        self, after: Version = START, upto: Version | None = None, *, enough: Version | None = None, first: int = PAGE
    ) -> AsyncIterator[TranscriptMessage]:
        """Yield the messages in order, up to the last one that begins at or before `enough`.

        The first read takes `first` events.
        """
        return self._messages(self.repository.follow(self.thread_id, after, upto, first), enough)

    async def _messages(
        self, following: AsyncIterator[Recorded], enough: Version | None = None
    ) -> AsyncIterator[TranscriptMessage]:
        """Yield the messages of consecutive events, until one would begin after `enough`."""
        message: TranscriptMessage | None = None
        requests: dict[Version, ToolRequested] = {}
        async for recorded in following:
            event = recorded.event
            if isinstance(event, ToolRequested):
                requests[recorded.version] = event
                if message:
                    message = replace(message, tool_calls=(*message.tool_calls, _tool_call(event)))
                continue
            if message:
                yield message
                message = None
            if enough is not None and recorded.version > enough:
                return
            if isinstance(event, MessageAppended):
                message = _chat_message(recorded, event)
            elif isinstance(event, Answer) and (request := await self._request(event, requests)):
                requests.pop(Version(_call_of(event)), None)
                yield _tool_message(recorded, event, request)
        if message:
            yield message

    async def read_back(
        self, upto: Version, *, enough: Version = START, first: int = PAGE
    ) -> AsyncIterator[TranscriptMessage]:
        """Yield the messages up to a version, the last one first.

        It stops at messages that begin at or before `enough`, unless their calls are after it.
        """
        calls: list[ToolCall] = []
        async for page in self.repository.pages_back(self.thread_id, START, upto, first):
            requests = {each.version: each.event for each in page if isinstance(each.event, ToolRequested)}
            for recorded in reversed(page):
                event = recorded.event
                if isinstance(event, ToolRequested) and (calls or recorded.version > enough):
                    calls.append(_tool_call(event))
                    continue
                if isinstance(event, MessageAppended) and (calls or recorded.version > enough):
                    yield replace(_chat_message(recorded, event), tool_calls=tuple(reversed(calls)))
                calls = []
                if recorded.version <= enough:
                    return
                if isinstance(event, Answer) and (request := await self._request(event, requests)):
                    yield _tool_message(recorded, event, request)

    async def _request(self, answer: Answer, requests: dict[Version, ToolRequested]) -> ToolRequested | None:
        """Return the request of a call, which may be before what was read. None if a person refused a node instead."""
        call = Version(_call_of(answer))
        event: Event | None = requests.get(call)
        if event is None:
            before = await self.repository.history(self.thread_id, Version(call - 1), call)
            event = before[0].event if before else None
        if isinstance(event, ToolRequested):
            return event
        if isinstance(answer, events.ApprovalDenied):
            return None
        raise CorruptLog(f"{self.thread_id}: version {call} is no tool call")


async def _each(recorded: Sequence[Recorded]) -> AsyncIterator[Recorded]:
    for each in recorded:
        yield each


def _chat_message(recorded: Recorded, event: MessageAppended) -> TranscriptMessage:
    said = event.role, event.content, event.tokens
    return TranscriptMessage(recorded.version, recorded.recorded_at, *said, partial=event.partial, finish=event.finish)


def _tool_call(event: ToolRequested) -> ToolCall:
    return ToolCall(event.call_id, event.tool, event.arguments, event.written, event.fault)


def _tool_message(recorded: Recorded, event: Answer, request: ToolRequested) -> TranscriptMessage:
    content, outcome = text_of(event), events.CALL_OUTCOMES[type(event)]
    at, call_id = recorded.recorded_at, request.call_id
    return TranscriptMessage(recorded.version, at, "tool", content, event.tokens, (), call_id, request.tool, outcome)


def _call_of(answer: Answer) -> int:
    return answer.approval if isinstance(answer, events.ApprovalDenied) else answer.call
