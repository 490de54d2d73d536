"""Words that a process keeps of threads: others say more meanwhile, and what is found is what a new process finds."""

import asyncio
import json
import random
from uuid import UUID

import asyncpg

from domain.ids import ThreadId, Version, slice_of
from domain.ports.recall import Lineage
from domain.recall.bm25 import Hit
from domain.recall.terms import terms_of
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.recall import word_indexes
from infrastructure.postgres.recall.search import PostgresFinder
from infrastructure.postgres.recall.word_indexes import WordIndexes
from tests.contracts.test_recall import say
from tests.integration.test_query_plans import nodes

THREADS = [ThreadId(UUID(int=number)) for number in range(1, 5)]
WORDS = ["refund", "flight", "PEP4E0", "seats", "card", "York", "Seattle", "total", "price", "May", "insurance"]


async def found(finder: PostgresFinder, lineage: Lineage, question: str, before: int) -> list[Hit]:
    return list(await finder.find(lineage, terms_of(question), Version(before), 48))


async def test_whatever_is_kept_the_same_is_found(pool: asyncpg.Pool) -> None:
    chance, models = random.Random(7), PostgresReadModels(pool)
    finders = [PostgresFinder(pool), PostgresFinder(pool, max_bytes=2_000), PostgresFinder(pool, max_bytes=0)]
    ends = dict.fromkeys(THREADS, 0)
    for _ in range(60):
        thread_id = chance.choice(THREADS)
        texts = {}
        for _ in range(chance.randrange(5)):
            ends[thread_id] += chance.randrange(1, 4)
            texts[ends[thread_id]] = " ".join(chance.choices(WORDS, k=chance.randrange(12)))
        if texts:
            await say(models, texts, thread_id)
        first, second = chance.sample(THREADS, 2)
        left = chance.randrange(ends[second] + 1)
        lineage = [(first, Version(ends[first])), (second, Version(left))][: chance.choice((1, 2, 2))]
        question, before = " ".join(chance.choices(WORDS, k=3)), chance.randrange(1, ends[first] + 2)
        anew = await found(PostgresFinder(pool), lineage, question, before)
        for finder in finders:
            assert await found(finder, lineage, question, before) == anew


async def test_what_was_said_since_is_read_and_nothing_twice(pool: asyncpg.Pool) -> None:
    models, words = PostgresReadModels(pool), WordIndexes(pool)
    await say(models, {2: "one", 5: "two"}, THREADS[0])
    ((_, early, _),) = await words.of([(THREADS[0], Version(2))])
    assert list(early.versions) == [2, 5], "what is too new to be of interest is read already"
    await say(models, {7: "three", 9: "four"}, THREADS[0])
    ((_, same, _),) = await words.of([(THREADS[0], Version(5))])
    assert same is early, "nothing is read where nothing is missing"
    both = await asyncio.gather(*[words.of([(THREADS[0], Version(9))]) for _ in range(4)])
    assert [list(later.versions) for ((_, later, _),) in both] == [[2, 5, 7, 9]] * 4


async def test_bytes_are_bounded_and_the_last_used_threads_stay(pool: asyncpg.Pool) -> None:
    models = PostgresReadModels(pool)
    for thread_id in THREADS:
        await say(models, {2: "refund " * 400}, thread_id)
    words = WordIndexes(pool, max_bytes=3_000)
    kept = [(await words.of([(thread_id, Version(2))]))[0][1] for thread_id in THREADS]
    assert sum(each.size for each in kept) > 3_000
    again = [(await words.of([(thread_id, Version(2))]))[0][1] for thread_id in reversed(THREADS)]
    assert again[0] is kept[3]
    assert again[1] is kept[2]
    assert again[3] is not kept[0]
    assert again[3] == kept[0]


async def test_very_long_threads_are_not_kept_as_a_whole(pool: asyncpg.Pool) -> None:
    end = word_indexes.MAX_INDEXED_VERSIONS
    await say(PostgresReadModels(pool), {end: "refund", end + 1: "refund"}, THREADS[0])
    ((_, told, _),) = await WordIndexes(pool).of([(THREADS[0], Version(end))])
    assert list(told.versions) == [end]


async def test_until_the_read_model_has_signs_the_server_looks_for_words(
    pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    await say(PostgresReadModels(pool), {2: "my refund", 5: "a flight", 8: "a refund of the flight"}, THREADS[0])
    await owner.execute(
        """
        DROP VIEW read_models.messages;
        CREATE VIEW read_models.messages AS SELECT slice, thread_id, version, content FROM read_models.messages_1;
        GRANT SELECT ON read_models.messages TO threadfold_app
        """
    )
    hits = await found(PostgresFinder(pool), [(THREADS[0], Version(9))], "refund of flights", 9)
    assert [hit.version for hit in hits] == [8, 5, 2]


async def test_only_new_messages_of_the_thread_are_looked_at(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    models = PostgresReadModels(pool)
    for number in range(20):
        await say(models, {version: f"refund {version}" for version in range(1, 200)}, ThreadId(UUID(int=number)))
    await owner.execute("ANALYZE read_models.messages_1")
    thread_id = ThreadId(UUID(int=7))
    rows = await pool.fetch(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {word_indexes.NEWER}", [slice_of(thread_id)], [thread_id], [190], 8_192
    )
    read = [node for node in nodes(json.loads(rows[0][0])[0]["Plan"]) if node.get("Relation Name") == "messages_1"]
    assert [node["Actual Rows"] for node in read] == [9]
    assert all("Index" in node["Node Type"] or "Bitmap" in node["Node Type"] for node in read)
    assert not any(node.get("Rows Removed by Filter") for node in read)


async def test_new_messages_are_not_planned_for_anew_each_time(pool: asyncpg.Pool) -> None:
    await say(PostgresReadModels(pool), {1: "refund"}, THREADS[0])
    async with pool.acquire() as connection:
        newer = await connection.prepare(word_indexes.NEWER)
        for _ in range(20):
            await newer.fetch([slice_of(THREADS[0])], [THREADS[0]], [0], 8_192)
        plans = "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement = $1"
        [row] = await connection.fetch(plans, word_indexes.NEWER)
    assert tuple(row) == (5, 15), "PostgreSQL tries five before it keeps one"
