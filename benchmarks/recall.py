"""Whether what was said long ago is found again: 100 questions about the recorded conversations.

    .venv/bin/python -m benchmarks.recall [--questions 100] [--threads 4] [--room 1000] [--endpoint URL] [--misses]

Each thread holds 25 recorded conversations, compacted for a window of 8,000 tokens. Each question is asked at its end;
it counts as found if a message that answers it, of a conversation that it is about, is among the excerpts, and the
excerpt has the answer. `--endpoint` merges the full text with embeddings; `benchmarks/embeddings.py` serves some.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

import msgspec

from api.runtime.composition import ALL_SLICES
from api.runtime.stores import SystemClock
from benchmarks.reading import make_readable
from benchmarks.recall_questions import Question, questions, task_of, threads
from domain.application.recall.embed import MessageEmbedder
from domain.application.recall.search import MessageSearch, SemanticSearch
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.prices import Prices
from domain.ids import ThreadId
from domain.prompt.compaction import compacted, overflows
from domain.recall.excerpts import Excerpt
from domain.recall.terms import terms_of
from domain.thread.codec import Metadata
from domain.thread.events import (
    Event,
    MessageAppended,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.state import Idle, Running
from examples.airline.recordings import Conversation
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.models.openai.embeddings import OpenAIEmbedder
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.recall.search import PostgresFinder
from infrastructure.postgres.recall.vectors import PostgresVectorStore
from infrastructure.token_counter import TiktokenCounter
from migrations.run import migrate
from projections.engine.runner import ProjectionRunner
from projections.messages import PROJECTION

LIMIT = 8_000
NAMES = UUID("7e1f1a43-5d1c-4b6e-9a54-0a2c6c1f5d10")

count = TiktokenCounter().count


@dataclass
class Told:
    """A long thread as it is stored, and the messages of each task."""

    loaded: LoadedThread
    messages: Mapping[str, Mapping[int, str]]


async def tell(repository: ThreadRepository, number: int, conversations: Sequence[Conversation]) -> Told:
    """Append conversations as the turns of one thread, and let older messages leave the window as they would."""
    loaded = await repository.load(ThreadId(uuid5(NAMES, str(number))))
    loaded, _ = await repository.append(repository.chain(loaded, [ThreadOpened("assistant")], Metadata()))
    messages: dict[str, dict[int, str]] = defaultdict(dict)
    for conversation in conversations:
        for turn in turns(conversation, loaded.head.version):
            loaded, recorded = await repository.append(
                repository.chain(loaded, placed(turn, loaded.head.version), Metadata())
            )
            for each in recorded:
                if isinstance(each.event, MessageAppended | ToolSucceeded) and each.event.content:
                    messages[task_of(conversation)][each.version] = each.event.content
            assert isinstance(loaded.state, Idle)
            if overflows(loaded.state.thread.window, int(LIMIT * 0.75)):
                fact = compacted(loaded.state.thread, LIMIT, count)
                started = TurnStarted(uuid5(NAMES, str(loaded.head.version)), "compact", "f00")
                done = [fact] if fact else []
                loaded, _ = await repository.append(
                    repository.chain(loaded, [started, *done, TurnCompleted(started.turn_id)], Metadata())
                )
    return Told(loaded, messages)


def turns(conversation: Conversation, version: int) -> Sequence[Sequence[Event]]:
    """Make the turns of a conversation that begins after a version."""
    found: list[list[Event]] = []
    for message in conversation.messages:
        if message["role"] == "user":
            found.append([TurnStarted(uuid5(NAMES, f"{conversation.id} {version} {len(found)}"), "talk", "f00")])
            found[-1].append(MessageAppended("user", message["content"], count(message["content"])))
        elif message["role"] == "assistant":
            text, asked = message["content"], message.get("tool_calls") or ()
            found[-1].append(MessageAppended("assistant", text, count(text or "") + 20 * len(asked)))
            for call in asked:
                function = call["function"]
                arguments = msgspec.json.decode(function["arguments"])
                found[-1].append(ToolRequested(call["id"], function["name"], arguments))
        else:
            found[-1] += [ToolStarted(0), ToolSucceeded(0, message["content"], count(message["content"]), 10)]
    for events in found:
        assert isinstance(events[0], TurnStarted)
        events.append(TurnCompleted(events[0].turn_id))
    return found


def placed(events: Sequence[Event], version: int) -> Sequence[Event]:
    """Name the calls by their versions, now that these are known."""
    asked, found = 0, list[Event]()
    for place, event in enumerate(events, version + 1):
        asked = place if isinstance(event, ToolRequested) else asked
        known = isinstance(event, ToolStarted | ToolSucceeded)
        found.append(msgspec.structs.replace(event, call=asked) if known else event)
    return found


async def ask(
    repository: ThreadRepository, search: MessageSearch, told: Told, question: Question, room: int
) -> Sequence[Excerpt]:
    """Ask at the thread's end, without storing the question."""
    turn = TurnStarted(uuid5(NAMES, question.text), "talk", "f00")
    said = MessageAppended("user", question.text, count(question.text))
    state = fold(told.loaded.state, [turn, said])
    assert isinstance(state, Running)
    before = state.thread.window[0].version
    return await search.recall(repository, state, told.loaded.thread_id, before, room, count)


@dataclass
class Result:
    """How a question went: `rank` is that of the first message with the answer, 0 if it was not found."""

    question: Question
    shown: bool
    rank: int
    tokens: int
    took: float


async def measure(
    repository: ThreadRepository, search: MessageSearch, told: Sequence[Told], asked_: Sequence[Question], room: int
) -> Sequence[Result]:
    results = []
    for question in asked_:
        thread = told[question.thread]
        gold = {v for v, text in thread.messages[question.task].items() if question.answered_by(text)}
        began = time.perf_counter()
        shown = await ask(repository, search, thread, question, room)
        took = (time.perf_counter() - began) * 1000
        right = any(each.message in gold and question.answered_by(each.text) for each in shown)
        version = thread.loaded.head.version
        hits = await search.finder.find([(thread.loaded.thread_id, version)], terms_of(question.text), version, 24)
        rank = next((place for place, hit in enumerate(hits, 1) if hit.version in gold), 0)
        results.append(Result(question, right, rank, sum(each.tokens for each in shown), took))
    return results


def report(results: Sequence[Result], *, misses: bool) -> None:
    kinds: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        kinds[result.question.kind].append(result)
    print(f"\n{'kind':<10}{'asked':>7}{'shown':>7}{'MRR':>7}{'tokens':>8}{'ms':>7}")
    for kind, some in [*sorted(kinds.items()), ("all", list(results))]:
        print(
            f"{kind:<10}{len(some):>7}{sum(r.shown for r in some) / len(some):>7.0%}"
            f"{statistics.mean(1 / r.rank if r.rank else 0 for r in some):>7.2f}"
            f"{statistics.mean(r.tokens for r in some):>8.0f}{statistics.median(r.took for r in some):>7.1f}"
        )
    for result in results:
        if misses and not result.shown:
            asked = result.question
            print(f"\nthread {asked.thread}, {asked.task}, rank {result.rank}: {asked.text} {asked.answer}")


async def main(number: int, long: int, room: int, endpoint: str | None, *, misses: bool) -> None:
    conversations = threads(long)
    asked = questions(conversations, number)
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        make_readable(name)
        server = await asyncio.to_thread(EmbeddedPostgres.start, Path(name) / "postgres")
        try:
            await migrate(server.url())
            pool = await open_pool(server.url(), max_size=8)
            store, clock = PostgresEventStore(pool), SystemClock()
            repository = ThreadRepository(store, MemorySnapshotStore(), clock, fingerprint="bench")
            told = [await tell(repository, index, some) for index, some in enumerate(conversations)]
            models = PostgresReadModels(pool)
            await models.register([PROJECTION.shape])
            runner = ProjectionRunner(
                repository, models, [PROJECTION], Prices(clock.now().date()), clock, lambda: ALL_SLICES
            )
            while await runner.step():
                pass
            print(f"{long} threads of {', '.join(f'{t.loaded.head.version:,}' for t in told)} events")
            finder = PostgresFinder(pool)
            print("\nby words")
            report(await measure(repository, MessageSearch(finder), told, asked, room), misses=misses)
            if endpoint:
                vectors = PostgresVectorStore(pool)
                await vectors.prepare(server.url())
                meaning = SemanticSearch(OpenAIEmbedder(endpoint, None, "benchmark"), vectors)
                indexer, began = MessageEmbedder(repository, meaning, lambda: ALL_SLICES), time.perf_counter()
                while await indexer.step():
                    pass
                print(f"\nby words and meaning; embedded in {time.perf_counter() - began:.1f} s")
                report(await measure(repository, MessageSearch(finder, meaning), told, asked, room), misses=misses)
                await meaning.embedder.close()
            await store.close()
            await pool.close()
        finally:
            await asyncio.to_thread(server.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--room", type=int, default=1_000)
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--endpoint", help="of embeddings, such as http://127.0.0.1:8090/v1")
    given = parser.parse_args()
    asyncio.run(main(given.questions, given.threads, given.room, given.endpoint, misses=given.misses))
