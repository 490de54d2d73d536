"""Whether what was said long ago is found again in other languages: 50 questions each in eight of them.

    .venv/bin/python -m benchmarks.recall_languages [--language german] [--room 1360] [--misses]

`benchmarks/languages` has, for each language, facts that a user mentions, what is asked about them later in other
words, the answer as it stands in the fact, and the words of a search. Between and after them is small talk about the
same things. All of it is one thread; each question is asked at its end, when all facts have left the window. It counts
as found if the excerpts show the fact with the answer. Then each fact is in a thread of its own, beside small talk, and
is searched for: it counts as found if its thread is listed. Both with PostgreSQL and in memory, the same events through
the same projections.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from uuid import UUID, uuid5

from api.runtime.composition import ALL_SLICES
from api.runtime.stores import SystemClock
from benchmarks.reading import make_readable
from domain.application.recall.search import MessageSearch
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.prices import Prices
from domain.ids import DEFAULT_TENANT, ThreadId
from domain.ports.read_models import ReadModels
from domain.ports.recall import Finder
from domain.prompt.compaction import compacted, overflows
from domain.recall.excerpts import Excerpt
from domain.recall.terms import relaxed_searches
from domain.thread.codec import Metadata
from domain.thread.events import Event, MessageAppended, ThreadOpened, TurnCompleted, TurnStarted
from domain.thread.evolve import fold
from domain.thread.state import Idle, Running
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.read_models import MemoryReadModels
from infrastructure.memory.recall import MemoryFinder
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.recall.search import PostgresFinder
from infrastructure.token_counter import TiktokenCounter
from migrations.run import migrate
from projections import messages, threads
from projections.engine.runner import ProjectionRunner

LIMIT = 2_000
"""Tokens of the window: of the conversation only the end is in it."""

NAMES = UUID("3a3e6c3e-7a57-4a52-9d6b-6f2b1b6f0c55")
DATA = Path(__file__).parent / "languages"

count = TiktokenCounter().count


@dataclass(frozen=True)
class Fact:
    """What was said, what is asked about it, the answer in it, and the words of a search."""

    said: str
    question: str
    answer: str
    search: str


@dataclass(frozen=True)
class Language:
    """Facts, and small talk: each of them is what a user says and what is answered."""

    name: str
    facts: Sequence[Fact]
    talk: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Stores:
    """A log, and what is read from it."""

    name: str
    repository: ThreadRepository
    models: ReadModels
    finder: Finder

    async def project(self) -> None:
        """Bring the read models up to the log."""
        projections, clock = [threads.PROJECTION, messages.PROJECTION], SystemClock()
        await self.models.register([projection.shape for projection in projections])
        runner = ProjectionRunner(
            self.repository, self.models, projections, Prices(clock.now().date()), clock, lambda: ALL_SLICES
        )
        while await runner.step():
            pass


def languages() -> Sequence[str]:
    """List the languages there are facts in."""
    return sorted(path.stem for path in DATA.glob("*.txt"))


def read(name: str) -> Language:
    """Read a language's facts and small talk."""
    lines = (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    facts = [Fact(*line.split(" | ")) for line in lines if line[0] not in "~="]
    said = [line[2:] for line in lines if line.startswith("~ ")]
    topics = next(line[2:] for line in lines if line.startswith("= ")).split(" | ")
    pairs = list(zip(said[::2], said[1::2], strict=True))
    return Language(name, facts, [(one.format(t), other.format(t)) for one, other in pairs for t in topics])


def conversation(language: Language) -> Iterator[tuple[str, str]]:
    """Yield what is said and answered: each fact between small talk, and then small talk until all facts are old."""
    talk = cycle(language.talk)
    for fact in language.facts:
        yield fact.said, next(talk)[1]
        yield next(talk)
    yield from islice(talk, len(language.talk))


async def tell(repository: ThreadRepository, thread_id: ThreadId, said: Sequence[tuple[str, str]]) -> LoadedThread:
    """Append turns to a new thread, and let older messages leave the window as they would."""
    loaded = await repository.load(thread_id)
    loaded, _ = await repository.append(repository.chain(loaded, [ThreadOpened("assistant")], Metadata()))
    for number, (asked, answered) in enumerate(said):
        turn = TurnStarted(uuid5(thread_id, str(number)), "talk", "f00")
        messages = [
            MessageAppended("user", asked, count(asked)),
            MessageAppended("assistant", answered, count(answered)),
        ]
        loaded, _ = await repository.append(
            repository.chain(loaded, [turn, *messages, TurnCompleted(turn.turn_id)], Metadata())
        )
        assert isinstance(loaded.state, Idle)
        if overflows(loaded.state.thread.window, int(LIMIT * 0.75)):
            fact = compacted(loaded.state.thread, LIMIT, count)
            started = TurnStarted(uuid5(thread_id, f"compact {number}"), "compact", "f00")
            done: list[Event] = [fact] if fact else []
            loaded, _ = await repository.append(
                repository.chain(loaded, [started, *done, TurnCompleted(started.turn_id)], Metadata())
            )
    return loaded


async def ask(
    stores: Stores, search: MessageSearch, loaded: LoadedThread, question: str, room: int
) -> Sequence[Excerpt]:
    """Ask at the thread's end, without storing the question."""
    turn = TurnStarted(uuid5(NAMES, question), "talk", "f00")
    state = fold(loaded.state, [turn, MessageAppended("user", question, count(question))])
    assert isinstance(state, Running)
    before = state.thread.window[0].version
    return await search.recall(stores.repository, state, loaded.thread_id, before, room, count)


@dataclass(frozen=True)
class Recalled:
    """How questions went: which facts were not shown, and what a question took."""

    missed: Sequence[Fact]
    tokens: float
    excerpts: float
    milliseconds: float


async def recalled(stores: Stores, language: Language, room: int) -> Recalled:
    """Tell all facts in one thread, and ask for each of them at its end."""
    thread_id = ThreadId(uuid5(NAMES, language.name))
    loaded = await tell(stores.repository, thread_id, list(conversation(language)))
    await stores.project()
    search = MessageSearch(stores.finder)
    missed, tokens, shown, took = [], [], [], []
    for fact in language.facts:
        began = time.perf_counter()
        excerpts = await ask(stores, search, loaded, fact.question, room)
        took.append((time.perf_counter() - began) * 1000)
        tokens.append(sum(each.tokens for each in excerpts))
        shown.append(len(excerpts))
        if not any(fact.answer in each.text and each.text in fact.said for each in excerpts):
            missed.append(fact)
    return Recalled(missed, statistics.mean(tokens), statistics.mean(shown), statistics.median(took))


@dataclass(frozen=True)
class Searched:
    """How searches went: which facts' threads were not listed, and how many threads were."""

    missed: Sequence[Fact]
    listed: float


async def tell_apart(stores: Stores, language: Language) -> Sequence[ThreadId]:
    """Tell each fact in a thread of its own, with small talk before and after it."""
    talk = cycle(language.talk)
    ids = [ThreadId(uuid5(NAMES, f"{language.name} {fact.said}")) for fact in language.facts]
    for thread_id, fact in zip(ids, language.facts, strict=True):
        await tell(stores.repository, thread_id, [next(talk), (fact.said, next(talk)[1]), next(talk)])
    await stores.project()
    return ids


async def searched_for(
    stores: Stores, facts: Sequence[Fact], ids: Sequence[ThreadId], *, by_question: bool = False
) -> Searched:
    """Search for the threads that facts were told in, by some words or by the whole question."""
    missed, listed = [], []
    for thread_id, fact in zip(ids, facts, strict=True):
        found = await _listed(stores.models, fact.question if by_question else fact.search)
        listed.append(len(found))
        if thread_id not in found:
            missed.append(fact)
    return Searched(missed, statistics.mean(listed))


async def _listed(models: ReadModels, text: str) -> Sequence[ThreadId]:
    for search in relaxed_searches(text):
        rows = await models.select(threads.listing(DEFAULT_TENANT, search=search))
        if rows:
            return [threads.summary_of(row).thread_id for row in rows]
    return []


def in_memory() -> Stores:
    """Make stores that a process keeps for itself."""
    store, clock = MemoryEventStore(), SystemClock()
    models = MemoryReadModels(store.head_of, clock)
    repository = ThreadRepository(store, MemorySnapshotStore(), clock, fingerprint="bench")
    return Stores("memory", repository, models, MemoryFinder(models, messages.MESSAGES))


@asynccontextmanager
async def on_postgres() -> AsyncIterator[Stores]:
    """Start PostgreSQL, and make stores on it."""
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        make_readable(name)
        server = await asyncio.to_thread(EmbeddedPostgres.start, Path(name) / "postgres")
        try:
            await migrate(server.url())
            pool = await open_pool(server.url(), max_size=4)
            store = PostgresEventStore(pool)
            repository = ThreadRepository(store, MemorySnapshotStore(), SystemClock(), fingerprint="bench")
            yield Stores("PostgreSQL", repository, PostgresReadModels(pool), PostgresFinder(pool))
            await store.close()
            await pool.close()
        finally:
            await asyncio.to_thread(server.stop)


async def report(stores: Stores, names: Sequence[str], room: int, *, misses: bool) -> None:
    """Measure languages, and print a line for each."""
    print(
        f"\n{stores.name}\n{'language':<10}{'recalled':>10}{'tokens':>8}{'parts':>7}{'ms':>6}{'searched':>10}{'listed':>8}{'asked':>10}{'listed':>8}"
    )
    for name in names:
        language = read(name)
        found = await recalled(stores, language, room)
        ids = await tell_apart(stores, language)
        searches = await searched_for(stores, language.facts, ids)
        questions = await searched_for(stores, language.facts, ids, by_question=True)
        asked = len(language.facts)
        print(
            f"{name:<10}{1 - len(found.missed) / asked:>10.0%}{found.tokens:>8.0f}{found.excerpts:>7.1f}"
            f"{found.milliseconds:>6.1f}{1 - len(searches.missed) / asked:>10.0%}{searches.listed:>8.1f}"
            f"{1 - len(questions.missed) / asked:>10.0%}{questions.listed:>8.1f}"
        )
        if misses:
            print(*[f"   not recalled: {fact.question}   {fact.said}" for fact in found.missed], sep="\n")
            print(*[f"   not by question: {fact.question}   {fact.said}" for fact in questions.missed], sep="\n")
            print(*[f"   not searched: {fact.search}   {fact.said}" for fact in searches.missed], sep="\n")


async def main(names: Sequence[str], room: int, *, misses: bool, memory: bool) -> None:
    await report(in_memory(), names, room, misses=misses)
    if memory:
        return
    async with on_postgres() as stores:
        await report(stores, names, room, misses=misses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=languages(), action="append")
    parser.add_argument("--room", type=int, default=1_360)
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--memory", action="store_true", help="leave PostgreSQL out")
    given = parser.parse_args()
    asyncio.run(main(given.language or languages(), given.room, misses=given.misses, memory=given.memory))
