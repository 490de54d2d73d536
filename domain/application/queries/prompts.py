"""The prompts of a turn, reconstructed from the log, with what was recorded about each call."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from domain.application.recall.messages import read_messages
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.errors import CorruptLog, UnknownTurn
from domain.ids import START, ThreadId, TurnId, Version
from domain.ports.texts import TextStore
from domain.ports.tokens import TokenCounter
from domain.prompt.reconstruct import ReconstructedPrompt, hinted, is_whole, reconstruct_prompt
from domain.thread.codec import Recorded
from domain.thread.events import ContextAssembled, ModelCalled, TurnEnd, TurnStarted
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


async def recorded_prompts(
    repository: ThreadRepository,
    texts: TextStore,
    tokens: TokenCounter,
    loaded: LoadedThread,
    turn_id: TurnId,
    after: int = START,
) -> tuple[Sequence[RecordedPrompt], bool]:
    """Return the prompts of a turn after a version, and whether there are more than fit into `MAX_PAGE_BYTES`.

    `loaded` is the thread as it is now.

    Raises:
        UnknownTurn: the thread has no such turn, or the turn has not begun.
    """
    events = await _turn(repository, loaded.thread_id, turn_id, loaded.head.version)
    found: list[RecordedPrompt] = []
    room = MAX_PAGE_BYTES
    for place, recorded in enumerate(events):
        if not isinstance(recorded.event, ContextAssembled) or recorded.version <= after:
            continue
        if room <= 0:
            return found, True
        following = events[place + 1] if place + 1 < len(events) else None
        follows = following is not None and following.version == recorded.version + 1
        called = following.event if following and follows and isinstance(following.event, ModelCalled) else None
        assembled = recorded.event
        before = await _before(repository, loaded, recorded, assembled)
        found.append(await _reconstructed(repository, texts, tokens, before, recorded, assembled, called))
        room -= sum(bytes_of(message.content or "") for message in found[-1].prompt.messages)
    return found, False


async def _reconstructed(
    repository: ThreadRepository,
    texts: TextStore,
    tokens: TokenCounter,
    before: Running,
    recorded: Recorded,
    assembled: ContextAssembled,
    called: ModelCalled | None,
) -> RecordedPrompt:
    """Reconstruct one prompt from the thread as it was then."""
    kept = await texts.texts([name for name in assembled.texts if name])
    recalled = [Version(part.message) for part in assembled.recalled]
    older = await read_messages(repository, recorded.thread_id, recalled)  # even if their turn was rolled back since
    prompt = reconstruct_prompt(before, assembled, kept, older, tokens.count)
    if called and called.hint:
        prompt = hinted(prompt, called.hint, tokens.count)
    everything = assembled.fixed + before.thread.said_tokens if is_whole(assembled) else None
    return RecordedPrompt(recorded.version, recorded.recorded_at, assembled, called, everything, prompt)


async def _before(
    repository: ThreadRepository, loaded: LoadedThread, recorded: Recorded, assembled: ContextAssembled
) -> Running:
    """Fold the thread up to the version that a prompt was assembled from."""
    made_of = Version(assembled.of or recorded.version - 1)
    state = (await repository.load_at(loaded.thread_id, made_of, loaded.tenant)).state
    if not isinstance(state, Running):
        raise CorruptLog(f"{loaded.thread_id}: a prompt was assembled from version {made_of}, when no turn ran")
    return state


async def _turn(
    repository: ThreadRepository, thread_id: ThreadId, turn_id: TurnId, upto: Version
) -> Sequence[Recorded]:
    """Return a turn's events about prompts, searching from the thread's end backwards."""
    events: list[Recorded] = []
    async for page in repository.pages_back(thread_id, START, upto, FIRST_PAGE_EVENTS):
        for recorded in reversed(page):
            event = recorded.event
            if isinstance(event, TurnEnd) and event.turn_id == turn_id:
                events.clear()
            if isinstance(event, ContextAssembled | ModelCalled):
                events.append(recorded)
            if isinstance(event, TurnStarted):
                if event.turn_id == turn_id:
                    return events[::-1]
                events.clear()
    raise UnknownTurn(turn_id)
