"""Texts of any length and any characters, in every field of every event, go through every projection.

Models, endpoints and clients make texts up. The log keeps them as they are; read models shorten what they index.
"""

import random
import string
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest

from domain.ids import SLICES, CommandId, Slice, ThreadId
from domain.log.hash_chain import chain_records
from domain.models.chat import ToolCall
from domain.ports.log import Append
from domain.read_models.tables import MAX_INDEXED, indexed
from domain.thread.codec import Metadata, encode
from domain.thread.events import (
    EVENTS,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    BudgetSet,
    BudgetThresholdReached,
    CancellationRequested,
    ContextAssembled,
    Event,
    FanOutStarted,
    HistoryCompacted,
    ItemAdvanced,
    ItemCompleted,
    ItemFailed,
    Limit,
    MessageAppended,
    MessageEdited,
    ModelAnswered,
    ModelCalled,
    ModelFailed,
    NodeCompleted,
    NodeFailed,
    QuestionAnswered,
    QuestionAsked,
    Recalled,
    StateUpdated,
    ThreadForked,
    ThreadOpened,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnEnqueued,
    TurnFailed,
    TurnResumed,
    TurnRolledBack,
    TurnStarted,
)
from tests.support.http import Api, running_api

LONG = 8_000
START = datetime(2026, 11, 23, tzinfo=UTC)

Text = Callable[[], str]


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url) as client:
        yield client


def odd(chance: random.Random) -> str:
    """Invent a text: mostly long, and of characters that cannot be compressed."""
    alphabet = chance.choice(
        [
            string.ascii_letters + string.digits,
            "".join(chr(number) for number in range(0x1F300, 0x1F5FF)),  # four bytes each
            "".join(chr(number) for number in range(0x0300, 0x0370)),  # combining marks
            "".join(chr(number) for number in range(0x4E00, 0x5000)),
            " \t\n\r\u2028\ufeff\u200f",
            "\0a",
            "'\"\\;--%_{}$",
        ]
    )
    length = chance.choice([0, 1, MAX_INDEXED, MAX_INDEXED + 1, LONG, LONG, LONG, 20_000])
    return "".join(chance.choices(alphabet, k=length))


def conversation(text: Text) -> Sequence[Event]:
    """Tell of every kind of event but those of forks. The numbers are versions."""
    one, two, three, four = uuid4(), uuid4(), uuid4(), uuid4()
    limit = Limit("day", tokens=1)
    return (
        ThreadOpened(text(), {text(): text()}),
        BudgetSet((limit,)),
        TurnStarted(one, text(), text()),
        MessageAppended("user", text(), 2),
        ContextAssembled(4, 4, 3, 9, texts=(text(),), values=(text(),), recalled=(Recalled(4, 0, 1, text()),)),
        ModelFailed(text(), text(), text(), 5, text()),
        ModelCalled(text(), 3, 4, 5, text(), provider=text(), because=text()),
        BudgetThresholdReached("thread", limit, START, 5, 6, text(), text()),
        MessageAppended("assistant", text(), 2),
        ToolRequested(text(), text(), {text(): text()}),
        ToolRequested(text(), text(), {}),
        ToolRequested(text(), text(), {}),
        ToolStarted(10),
        ToolSucceeded(10, text(), 3, 4),
        ToolStarted(11),
        ToolFailed(11, text(), 3, 4),
        ApprovalRequested(text(), 12),
        ApprovalGranted(12, {text(): text()}),
        ToolStarted(12),
        ToolOutcomeUnknown(12, text(), 3),
        FanOutStarted([text()]),
        ItemFailed(0, 1, text(), 5),
        ItemCompleted(0, text(), 5),
        StateUpdated({text(): text()}),
        NodeFailed(text(), 1, text(), 5, 1),
        TurnResumed(text(), text()),
        HistoryCompacted(4, text(), 3, text()),
        NodeCompleted(text(), text(), 1, 5),
        TurnEnqueued(two, text(), 3, text(), text()),
        TurnCompleted(one),
        TurnStarted(two, text(), text(), queued=29),
        MessageAppended("user", text(), 2),
        ToolRequested(text(), text(), {}),
        ApprovalRequested(text(), 33),
        ApprovalDenied(33, text(), 3),
        CancellationRequested(two, "cancelled"),
        TurnCancelled(two, "cancelled"),
        TurnStarted(three, text(), text()),
        MessageAppended("user", text(), 2),
        ApprovalRequested(text(), node=text()),
        TurnFailed(three, "node_failed", text()),
        TurnStarted(four, text(), text()),
        MessageAppended("user", text(), 2),
        ModelAnswered(0, text(), text(), text(), text(), (ToolCall(text(), text(), {text(): text()}),)),
        QuestionAsked(text(), text(), {text(): text()}),
        QuestionAnswered(45, {text(): text()}),
        FanOutStarted([{text(): text()}], each=text()),
        ItemAdvanced(0, text(), text(), {text(): text()}, 5),
        CancellationRequested(four, "rolled_back"),
        TurnRolledBack(four),
    )


async def write(api: Api, events: Sequence[Event], text: Text, parent: ThreadId | None = None) -> ThreadId:
    """Put events into the log as they are, as an import would: nothing is decided, so nothing is refused."""
    runtime, thread_id = api.service.runtime, ThreadId(uuid4())
    before = await runtime.repository.load(parent) if parent else await runtime.repository.load(thread_id)
    metadata = Metadata(CommandId(uuid4()), None, text(), text(), text())
    drafts = [encode(event, metadata) for event in events]
    records, head = chain_records(before.tenant, thread_id, before.head, drafts, runtime.clock.now())
    await runtime.repository.store.append(
        Append(before.tenant, thread_id, before.head, head, records, in_turn=False, forked=parent is not None)
    )
    return thread_id


async def parked(api: Api) -> Sequence[object]:
    runtime = api.service.runtime
    await runtime.catch_up()
    instances = [instance.id for instance in await runtime.log.models.instances()]
    return await runtime.log.models.parked(instances, [Slice(number) for number in range(SLICES)])


@pytest.mark.parametrize("seed", range(5))
async def test_odd_texts_go_through_all_projections(api: Api, seed: int) -> None:
    chance = random.Random(seed)
    events = conversation(lambda: odd(chance))
    parent = await write(api, events, lambda: odd(chance))
    fork = (ThreadForked(parent, len(events)), MessageEdited(9, odd(chance), 2))
    await write(api, fork, lambda: odd(chance), parent)
    assert {type(event) for event in (*events, *fork)} == set(EVENTS)
    assert await parked(api) == []
    for path in ("usage?group_by=model,node", "analytics/tools?group_by=tool", "analytics/nodes", "audit", "threads"):
        answer = await api.get(f"/v1/{path}")
        assert answer.status_code == 200, answer.text


async def test_a_long_name_is_found_by_the_whole_of_it(api: Api) -> None:
    names = ["tool " + "x" * LONG, "tool " + "x" * LONG + "y"]
    for number, name in enumerate(names):
        await write(api, conversation(partial(str, name)), partial(str, name[5:250]))
        assert await parked(api) == []
        events = (await api.get(f"/v1/audit?actor={name[5:250]}")).json()["items"]
        assert len(events) == number + 1
    for query in ("analytics/tools?tool=", "usage?model=", "analytics/nodes?node="):
        for name in names:
            (found,) = (await api.get(f"/v1/{query}{name}")).json()["items"]
            assert found
    grouped = (await api.get("/v1/usage?group_by=model")).json()["items"]
    assert {item["model"] for item in grouped} == {indexed(name) for name in names}
    spent = (await api.get("/v1/budgets", params={"group_by": "model", "model": names[1]})).json()
    assert [item["model"] for item in spent] == [indexed(names[1])]


async def test_the_log_keeps_what_was_said(api: Api) -> None:
    name = "🧵" * LONG
    thread = await write(api, conversation(lambda: name), lambda: "me")
    events = (await api.get(f"/v1/threads/{thread}/events?limit=1000")).json()["items"]
    assert next(e for e in events if e["type"] == "ToolRequested")["data"]["tool"] == name
