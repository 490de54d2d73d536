"""The prompts of a turn, reconstructed from the log, with what was recorded about each call."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from domain.application.recall.messages import read_messages
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.errors import CorruptLog, UnknownTurn
from domain.ids import START, TurnId, Version
from domain.ports.texts import TextStore
from domain.ports.tokens import TokenCounter
from domain.prompt.reconstruct import ReconstructedPrompt, hinted, is_whole, reconstruct_prompt
from domain.thread.codec import Recorded
from domain.thread.events import ContextAssembled, ModelAnswered, ModelCalled, TurnEnd, TurnStarted
from domain.thread.size_limits import bytes_of
from domain.thread.state import Running

MAX_PAGE_BYTES = 1_000_000
"""Bytes of prompts after which no further prompt is returned."""

FIRST_PAGE_EVENTS = 200
"""Events of the first read, from the thread's end backwards: most callers ask for a late turn."""


class RecordedPrompt(Struct, frozen=True):
    """A prompt of a turn: its event and version, and the model call that it was for, if the model answered."""

    version: Version
    at: datetime
    assembled: ContextAssembled
    called: ModelCalled | None
    everything: int | None
    """Tokens of a prompt that holds all messages of the thread; None if that is unknown."""
    prompt: ReconstructedPrompt


class RecordedQuestion(Struct, frozen=True):
    """A question that a node or an item asked outside of the conversation, and the model call that answered it."""

    version: Version
    at: datetime
    answered: ModelAnswered
    called: ModelCalled | None


class PromptsPage(Struct, frozen=True):
    """Prompts and questions of a turn, each in their order. `next_after` begins the next page; None on the last one."""

    prompts: Sequence[RecordedPrompt]
    questions: Sequence[RecordedQuestion]
    next_after: Version | None


@dataclass(frozen=True)
class TurnPrompts:
    """Reconstructs the prompts of turns. `loaded` is the thread as it is now."""

    repository: ThreadRepository
    texts: TextStore
    tokens: TokenCounter
    loaded: LoadedThread

    async def page(self, turn_id: TurnId, after: int = START) -> PromptsPage:
        """Return the prompts and questions of a turn after a version, as many as fit into `MAX_PAGE_BYTES`.

        Raises:
            UnknownTurn: the thread has no such turn, or the turn has not begun.
        """
        events = await self._turn(turn_id)
        calls = {recorded.version: recorded.event for recorded in events if isinstance(recorded.event, ModelCalled)}
        prompts: list[RecordedPrompt] = []
        questions: list[RecordedQuestion] = []
        room, last = MAX_PAGE_BYTES, Version(after)
        for recorded in events:
            version, event = recorded.version, recorded.event
            if isinstance(event, ModelCalled) or version <= after:
                continue
            if room <= 0:
                return PromptsPage(prompts, questions, last)
            if isinstance(event, ContextAssembled):
                prompts.append(await self._reconstructed(recorded, event, calls.get(Version(version + 1))))
                room -= sum(bytes_of(message.content or "") for message in prompts[-1].prompt.messages)
            elif isinstance(event, ModelAnswered) and event.question:
                called = calls.get(Version(version - 1))
                questions.append(RecordedQuestion(version, recorded.recorded_at, event, called))
                room -= bytes_of(event.prompt) + bytes_of(event.instructions) + bytes_of(event.content or "")
            last = version
        return PromptsPage(prompts, questions, None)

    async def _reconstructed(
        self, recorded: Recorded, assembled: ContextAssembled, called: ModelCalled | None
    ) -> RecordedPrompt:
        """Reconstruct one prompt from the thread as it was then."""
        thread_id, made_of = self.loaded.thread_id, Version(assembled.of or recorded.version - 1)
        before = (await self.repository.load_at(thread_id, made_of, self.loaded.tenant)).state
        if not isinstance(before, Running):
            raise CorruptLog(f"{thread_id}: a prompt was assembled from version {made_of}, when no turn ran")
        texts = await self.texts.texts([name for name in assembled.texts if name])
        recalled = [Version(part.message) for part in assembled.recalled]
        older = await read_messages(self.repository, recorded.thread_id, recalled)  # even of turns rolled back since
        prompt = reconstruct_prompt(before, assembled, texts, older, self.tokens.count)
        if called and called.hint:
            prompt = hinted(prompt, called.hint, self.tokens.count)
        everything = assembled.fixed + before.thread.said_tokens if is_whole(assembled) else None
        return RecordedPrompt(recorded.version, recorded.recorded_at, assembled, called, everything, prompt)

    async def _turn(self, turn_id: TurnId) -> Sequence[Recorded]:
        """Return a turn's events about prompts, searching from the thread's end backwards."""
        events: list[Recorded] = []
        upto = self.loaded.head.version
        async for page in self.repository.pages_back(self.loaded.thread_id, START, upto, FIRST_PAGE_EVENTS):
            for recorded in reversed(page):
                event = recorded.event
                if isinstance(event, TurnEnd) and event.turn_id == turn_id:
                    events.clear()
                if isinstance(event, ContextAssembled | ModelCalled | ModelAnswered):
                    events.append(recorded)
                if isinstance(event, TurnStarted):
                    if event.turn_id == turn_id:
                        return events[::-1]
                    events.clear()
        raise UnknownTurn(turn_id)
