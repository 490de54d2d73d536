"""What was said long ago in other languages is found again in every store, by questions and by searches for threads."""

from dataclasses import replace

import pytest

from api.runtime.stores import SystemClock
from benchmarks.recall_languages import Language, Stores, languages, read, recalled, searched_for, tell_apart
from domain.application.thread_repository import ThreadRepository
from domain.ports.log import EventStore
from domain.ports.read_models import ReadModels
from domain.recall.word_index import index_of
from infrastructure.memory.read_models import MemoryReadModels
from infrastructure.memory.recall import MemoryFinder
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.postgres.recall.search import PostgresFinder
from projections.messages import MESSAGES, SEARCHED
from tests.support.notes import Desk, note

FOUND = 0.85
"""The share of facts that are found at least, in each language."""


@pytest.fixture
def stores(request: pytest.FixtureRequest, event_store: EventStore, read_models: ReadModels) -> Stores:
    repository = ThreadRepository(event_store, MemorySnapshotStore(), SystemClock(), fingerprint="test")
    if isinstance(read_models, MemoryReadModels):
        return Stores("memory", repository, read_models, MemoryFinder(read_models, MESSAGES))
    return Stores("PostgreSQL", repository, read_models, PostgresFinder(request.getfixturevalue("pool")))


def some(name: str) -> Language:
    """Take half of a language's facts, and some of its small talk."""
    language = read(name)
    return replace(language, facts=language.facts[::2], talk=language.talk[::2])


@pytest.mark.parametrize("name", languages())
async def test_what_was_said_long_ago_is_recalled(stores: Stores, name: str) -> None:
    language = some(name)
    found = await recalled(stores, language, room=680)
    assert len(found.missed) <= (1 - FOUND) * len(language.facts), [fact.question for fact in found.missed]


@pytest.mark.parametrize("name", languages())
async def test_a_search_lists_the_thread_and_few_others(stores: Stores, name: str) -> None:
    language = some(name)
    found = await searched_for(stores, language.facts, await tell_apart(stores, language))
    assert len(found.missed) <= (1 - FOUND) * len(language.facts), [fact.search for fact in found.missed]
    assert found.listed < 5


@pytest.mark.parametrize(
    "text",
    [
        "\u1780" + "\u17d2\u1780" * SEARCHED,
        "\u1000" + "\u1039\u1000" * SEARCHED,
        "\u4e2d" + "\u17d2\u1780\u0301" * SEARCHED,
        "".join(map(chr, range(0x20000, 0x2A000))) + "".join(map(chr, range(0x4E00, 0x9FA0))),
        "".join(f"{n:x}\U0001d400" for n in range(SEARCHED)),
        "\u3316" * SEARCHED,
        "der die das ist " + " ".join("".join(map(chr, range(n, n + 99))) for n in range(0x10450, 0x10490)) * 10,
    ],
    ids=lambda text: f"{text[:2]!a}",
)
async def test_words_of_any_text_are_stored(event_store: EventStore, read_models: ReadModels, text: str) -> None:
    """PostgreSQL takes words of 2,046 bytes, and a megabyte of them."""
    desk = await Desk(read_models, event_store).opened()
    assert await desk.write(note(1, words=index_of(text[:SEARCHED]).words))
