"""What every store does that finds older messages: by words over the read model, and by vectors."""

import asyncio
from uuid import UUID

import pytest

from domain.ids import Position, Slice, ThreadId, Version, slice_of
from domain.ports.read_models import Batch, Move, ReadModels
from domain.ports.recall import Embedded, Finder, Lineage, VectorStore
from domain.read_models.tables import Rows
from domain.recall.terms import terms_of
from domain.recall.word_index import index_of, term_ids_of
from infrastructure.memory.read_models import MemoryReadModels
from infrastructure.memory.recall import MemoryFinder, MemoryVectorStore
from infrastructure.postgres.recall.search import PostgresFinder
from infrastructure.postgres.recall.vectors import PostgresVectorStore
from projections.messages import MESSAGES, PROJECTION
from tests.streams import NOON

PARENT, FORK = ThreadId(UUID(int=1)), ThreadId(UUID(int=2))
ALL = Version(2**31 - 1)


@pytest.fixture
def finder(request: pytest.FixtureRequest, read_models: ReadModels) -> Finder:
    if isinstance(read_models, MemoryReadModels):
        return MemoryFinder(read_models, MESSAGES)
    return PostgresFinder(request.getfixturevalue("pool"))


@pytest.fixture
def unprepared(request: pytest.FixtureRequest, store_kind: str) -> MemoryVectorStore | PostgresVectorStore:
    if store_kind == "memory":
        return MemoryVectorStore()
    return PostgresVectorStore(request.getfixturevalue("pool"))


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def vectors(unprepared: MemoryVectorStore | PostgresVectorStore, url: str) -> VectorStore:
    if isinstance(unprepared, PostgresVectorStore):
        await asyncio.gather(*[unprepared.prepare(url) for _ in range(3)])
    return unprepared


async def say(models: ReadModels, texts: dict[int, str], thread_id: ThreadId = PARENT) -> None:
    """Write rows as the projection does."""
    await models.register([PROJECTION.shape])
    (serving,) = await models.instances()
    rows = Rows()
    rows.add(
        (
            MESSAGES,
            MESSAGES.row(
                at=NOON,
                version=version,
                tokens=1,
                slice=slice_of(thread_id),
                thread_id=thread_id,
                tenant="acme",
                role="tool" if text.startswith("{") else "user",
                tool="get_reservation" if text.startswith("{") else None,
                content=index_of(text).words,
                keys=index_of(text).term_ids,
            ),
        )
        for version, text in texts.items()
    )
    slice_ = slice_of(thread_id)
    after = await models.position(serving.line, slice_)
    move = Move(slice_, after, Position(after + 1))
    assert await models.commit(Batch(serving.line, (move,), {serving.id: rows}))


async def found(finder: Finder, question: str, lineage: Lineage = ((PARENT, ALL),), before: int = 1_000) -> list[int]:
    hits = await finder.find(lineage, terms_of(question), Version(before), 5)
    return [hit.version for hit in hits]


class TestFinding:
    @pytest.fixture(autouse=True)
    async def said(self, read_models: ReadModels) -> None:
        flights = {version: f"Your flight number {version} leaves soon." for version in range(100, 130)}
        await say(
            read_models,
            {
                3: "Please cancel my reservation PEP4E0.",
                20: '{"reservation_id": "PEP4E0", "payment": {"id": "credit_card_44", "amount": 1234}}',
                40: "The refund is $1,234.50, and comes by 2024-05-27.",
                60: "Is there a flight from New York to Seattle on May 20th?",
                80: "We reserved two seats for you, O'Hare.",
                **flights,
            },
        )

    async def test_any_word_will_do_and_rare_ones_weigh_more(self, finder: Finder) -> None:
        assert (await found(finder, "flight refunds"))[0] == 40
        assert (await found(finder, "Which flight number has PEP4E0?"))[:2] == [3, 20]

    @pytest.mark.parametrize(
        ("question", "version"),
        [
            ("PEP4E0", 3),
            ("pep4e0", 3),
            ("$1,234.50?", 40),
            ("on May 27", 40),
            ("2024-05-27", 40),
            ("2024-05-20", 60),
            ("New York", 60),
            ("credit_card_44", 20),
            ("reserving seats", 80),
            ("O'Hare", 80),
        ],
    )
    async def test_codes_dates_amounts_and_names_are_found(self, finder: Finder, question: str, version: int) -> None:
        assert (await found(finder, question))[0] == version

    async def test_a_hit_has_the_signs_of_its_words_and_who_said_them(self, finder: Finder) -> None:
        hits = await finder.find([(PARENT, ALL)], terms_of("PEP4E0"), Version(1_000), 5)
        assert {hit.version: (hit.term_ids, hit.who) for hit in hits} == {
            3: (term_ids_of("Please cancel my reservation PEP4E0."), "user"),
            20: (term_ids_of("reservation id PEP4E0 payment id credit card 44 amount 1234"), "get_reservation"),
        }

    async def test_only_what_was_said_before_and_not_too_much(self, finder: Finder) -> None:
        assert await found(finder, "PEP4E0", before=20) == [3]
        assert await found(finder, "PEP4E0", before=3) == []
        assert await found(finder, "PEP4E0", before=0) == []
        assert len(await found(finder, "flight")) == 5

    async def test_what_nobody_said_is_not_found(self, finder: Finder) -> None:
        assert await found(finder, "marmalade") == []
        assert await found(finder, "the of") == []
        assert await found(finder, "") == []
        assert await found(finder, "PEP4E0", [(FORK, ALL)]) == []

    @pytest.mark.parametrize(
        "text", ["'", "a'b & !c | (d", "\\ \\'", "\x00 9\x00", "1:*", "<-> x1", "é1 ß2 日本9", "9" * 3000]
    )
    async def test_nothing_in_a_question_is_an_operator(self, finder: Finder, text: str) -> None:
        assert await found(finder, f"{text} refund") == [40]

    async def test_a_fork_has_what_its_parent_said_before_it(self, finder: Finder, read_models: ReadModels) -> None:
        await say(read_models, {41: "A refund in the fork"}, FORK)
        lineage = [(FORK, Version(999)), (PARENT, Version(40))]
        assert sorted(await found(finder, "refund", lineage)) == [40, 41]
        assert await found(finder, "refund", [(FORK, Version(999)), (PARENT, Version(39))]) == [41]
        (hit,) = await finder.find(lineage, terms_of("fork"), Version(999), 5)
        assert (hit.thread_id, hit.version) == (FORK, 41)


async def test_a_needle_in_a_long_thread_is_found(finder: Finder, read_models: ReadModels) -> None:
    texts = {version: f"Nothing new about flight {version} today" for version in range(1, 24_000, 3)}
    await say(read_models, {**texts, 10_001: "The needle is PEP4E0"})
    assert (await found(finder, "Which flight is PEP4E0 today?", before=30_000))[0] == 10_001
    assert len(await found(finder, "flight today", before=30_000)) == 5


async def test_before_the_read_model_is_there_nothing_is_found(finder: Finder) -> None:
    assert await found(finder, "refund") == []


class TestVectors:
    async def test_the_nearest_are_found_in_the_thread_before_a_version(self, vectors: VectorStore) -> None:
        here = [Embedded(PARENT, Version(n), [1.0, n / 10]) for n in (1, 5, 9)]
        await vectors.keep("small", [*here, Embedded(FORK, Version(11), [1.0, 0.0])], {})
        hits = await vectors.nearest("small", [(PARENT, ALL)], [1.0, 0.5], Version(9), 5)
        assert [hit.version for hit in hits] == [5, 1]
        assert hits[0].score == pytest.approx(1)
        lineage = [(FORK, ALL), (PARENT, Version(1))]
        assert [h.version for h in await vectors.nearest("small", lineage, [1.0, 0.0], Version(99), 5)] == [11, 1]
        assert len(await vectors.nearest("small", [(PARENT, ALL)], [1.0, 0.5], Version(99), 1)) == 1

    async def test_models_are_apart_and_so_are_vectors_of_other_lengths(self, vectors: VectorStore) -> None:
        await vectors.keep("small", [Embedded(PARENT, Version(1), [1.0, 0.0])], {})
        await vectors.keep("small", [Embedded(PARENT, Version(2), [1.0, 0.0, 0.0])], {})
        assert await vectors.nearest("large", [(PARENT, ALL)], [1.0, 0.0], Version(9), 5) == []
        hits = await vectors.nearest("small", [(PARENT, ALL)], [0.0, 1.0], Version(9), 5)
        assert [hit.version for hit in hits] == [1]

    async def test_positions_are_kept_and_go_on_only(self, vectors: VectorStore) -> None:
        assert await vectors.positions("small") == {}
        one = Embedded(PARENT, Version(1), [1.0])
        await vectors.keep("small", [one], {Slice(3): Position(7), Slice(4): Position(1)})
        await vectors.keep("small", [one], {Slice(3): Position(5)})
        assert await vectors.positions("small") == {Slice(3): Position(7), Slice(4): Position(1)}
        assert await vectors.positions("large") == {}
