"""An agent that asks models, a person and the customer, and works on lists; and what each of them answers.

Every prompt and question names its place, so it occurs once in a thread. Its answer follows from its text. So the log
shows whether an answer was lost, handed to another question, or paid for twice.
"""

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, field_validator

from tests.chaos.crashing import reached
from tests.chaos.effects import effect
from threadfold import (
    END,
    Agent,
    Graph,
    ItemContext,
    ItemNodeContext,
    Json,
    JsonObject,
    Node,
    NodeEvent,
    RetryPolicy,
    Subgraph,
    ToolContext,
    ToolError,
    TurnContext,
    tool,
)

INTENTS = ("exchange", "question", "refund")

BROKEN = "broken"
"""What a model answers to a `flaky` prompt at first: the attempt fails, and the next one asks again."""

MISFIT = "\n\nThe last answer does not fit"

RETRY = RetryPolicy(attempts=4, first_delay=0.05)


class Fact(BaseModel):
    """A model's answer."""

    of: str


class Decision(BaseModel):
    """A person's answer. Its JSON schema does not say that the note is signed, so the first answer does not fit."""

    approved: bool
    note: str

    @field_validator("note")
    @classmethod
    def _is_signed(cls, note: str) -> str:
        if not note.startswith("#"):
            raise ValueError("sign it with #")
        return note


def mark(text: str) -> str:
    """Return the answer to a text."""
    return f"#{zlib.crc32(text.encode()):08x}"


def answer_of(prompt: str) -> Json:
    """Return what an agent is to get for a prompt or question: `word`, `flaky`, `intent`, `fact` or `strict`."""
    match prompt.partition(" ")[0]:
        case "intent":
            return INTENTS[zlib.crc32(prompt.encode()) % len(INTENTS)]
        case _:
            return mark(prompt)


def decision_on(question: str) -> JsonObject:
    """Return a person's answer to a question for a `Decision`: one that fits only if it is asked again."""
    base, again, _ = question.partition(MISFIT)
    return {"approved": True, "note": mark(base) if again else "not signed"}


def _number(turn: TurnContext) -> str:
    return turn.user_input.split()[1]


def _place(turn: TurnContext) -> str:
    return f"{_number(turn)}/{turn.state.turn.node}"


async def _examine(turn: TurnContext) -> Sequence[NodeEvent]:
    """Ask for types, one after the other, and then several at a time; one answer has to be corrected."""
    place, heard = _place(turn), dict[str, Json]()
    heard[f"intent {place}"] = await turn.ask(f"intent {place}", output=Literal["exchange", "question", "refund"])
    heard[f"fact {place}"] = (await turn.ask(f"fact {place}", "Be precise.", output=Fact)).of
    words = [f"word {place} {n}" for n in range(3)]
    asking = asyncio.gather(*[turn.ask(word) for word in words])
    strict, texts = await asyncio.gather(turn.ask(f"strict {place}", output=Fact), asking)
    heard |= {f"strict {place}": strict.of, **dict(zip(words, texts, strict=True))}
    return [turn.update(heard=heard)]


async def _confirm(turn: TurnContext) -> Sequence[NodeEvent]:
    """Ask the customer twice, with questions to models before, between and after."""
    place, heard = _place(turn), dict[str, Json]()
    for part in ("order", "size"):
        word, question = f"word {place} {part}", f"customer {place} {part}?"
        heard[word] = await turn.ask(word)
        heard[question] = await turn.ask_customer(question)
        reached("in the subgraph")
    heard[f"fact {place}"] = (await turn.ask(f"fact {place}", output=Fact)).of
    return [turn.update(heard=heard)]


async def _authorise(turn: TurnContext) -> Sequence[NodeEvent]:
    """Work on a list, and ask a person: for a type, of which the first answer does not fit, and for a text."""
    place, heard = _place(turn), dict[str, Json]()
    for done in await turn.map(_items(place, 0, 3), _work, at_once=2, retry=RETRY):
        heard |= dict(done)
    question, reason = f"person {place} may it be?", f"person {place} why?"
    heard[question] = (await turn.ask_person(question, Decision)).note
    heard[f"word {place}"] = await turn.ask(f"word {place}")
    heard[reason] = await turn.ask_person(reason)
    reached("in the subgraph")
    return [turn.update(heard=heard)]


async def _consult(turn: TurnContext) -> Sequence[NodeEvent]:
    """Ask two people at a time, while models are asked and a list is worked on: each in an order of its own."""
    place = _place(turn)
    parts = await asyncio.gather(
        _decide(turn, f"{place} left"),
        _decide(turn, f"{place} right"),
        _in_turn(turn, [f"word {place} a{n}" for n in range(3)]),
        _in_turn(turn, [f"word {place} b{n}" for n in range(3)]),
        turn.map(_items(place, 0, 3), _work, at_once=2, retry=RETRY),
    )
    heard = dict[str, Json]()
    for part in (*parts[:4], *parts[4]):
        heard |= dict(part)
    return [turn.update(heard=heard)]


async def _decide(turn: TurnContext, place: str) -> dict[str, Json]:
    question = f"person {place} may it be?"
    return {question: (await turn.ask_person(question, Decision)).note}


async def _in_turn(turn: TurnContext, prompts: Sequence[str]) -> dict[str, Json]:
    return {prompt: await turn.ask(prompt) for prompt in prompts}


async def _request(turn: TurnContext) -> Sequence[NodeEvent]:
    """Request one call that may run once, one that may be repeated, and one that asks a person."""
    message, book = turn.request("book", order=_number(turn))
    others = [turn.request(name, order=_number(turn))[1] for name in ("note", "ship")]
    return [message, book, *others]


async def _run(turn: TurnContext) -> Sequence[NodeEvent]:
    (shipped,) = [outcome for outcome in await turn.run_tools() if outcome.tool == "ship"]
    return [turn.update(heard={_question_of_ship(_number(turn)): shipped.content})]


async def _fan_out(turn: TurnContext) -> Sequence[NodeEvent]:
    """Work on two lists; between them an attempt fails."""
    place, heard = _place(turn), dict[str, Json]()
    results = list(await turn.map(_items(place, 0, 4), _work, at_once=3, retry=RETRY))
    for prompt in (f"word {place}", f"flaky {place}"):
        heard[prompt] = await turn.ask(prompt)
    if heard[f"flaky {place}"] == BROKEN:
        raise ToolError("The model was not sure.")
    results += await turn.map(_items(place, 1, 3), _work, at_once=3, retry=RETRY)
    for done in results:
        heard |= dict(done)
    return [turn.update(heard=heard)]


async def _gather(turn: TurnContext) -> Sequence[NodeEvent]:
    """Work on a list with a tool and on one with a graph, one after the other, and then on both at a time."""
    place, heard = _place(turn), dict[str, Json]()
    items: list[list[Json]] = [[{"place": item} for item in _items(place, number, 3)] for number in range(4)]
    found = [*await turn.map(items[0], look_up, at_once=2, retry=RETRY)]
    studied = [*await turn.map(items[1], STUDY, at_once=2)]
    more = await asyncio.gather(turn.map(items[2], look_up, retry=RETRY), turn.map(items[3], STUDY))
    for item, result in zip([*items[0], *items[2]], [*found, *more[0]], strict=True):
        heard[f"word {item['place']}"] = result
    for values in (*studied, *more[1]):
        heard |= values["heard"]
    return [turn.update(heard=heard)]


async def _read(item: ItemNodeContext) -> Sequence[NodeEvent]:
    """Ask a model, twice for one of the items, and have an effect."""
    reached("node of an item started")
    place = item.values["place"]
    heard = {f"word {place}": await item.ask(f"word {place}")}
    if place.endswith("/1"):
        heard[f"flaky {place}"] = await item.ask(f"flaky {place}")
        if heard[f"flaky {place}"] == BROKEN:
            raise ToolError("The model was not sure.")
    effect(f"step {place}/study/read", item.idempotency_key)
    reached("node of an item had its effect")
    return [item.update(heard=heard)]


async def _weigh(item: ItemNodeContext) -> Sequence[NodeEvent]:
    """Ask a model for a type, have an effect, and ask again."""
    reached("node of an item started")
    place = item.values["place"]
    fact = await item.ask(f"fact {place}", output=Fact)
    effect(f"item {place}", item.idempotency_key)
    reached("node of an item had its effect")
    intent: Any = await item.ask(f"intent {place}", output=Literal["exchange", "question", "refund"])
    return [item.update(heard={f"fact {place}": fact.of, f"intent {place}": intent})]


STUDY = Graph(
    "study",
    "study",
    [
        Subgraph("study", Graph("reading", "read", [Node("read", _read, retry=RETRY)], {"read": END})),
        Node("weigh", _weigh, retry=RETRY),
    ],
    {"study": "weigh", "weigh": END},
)


async def _answer(turn: TurnContext) -> Sequence[NodeEvent]:
    return await turn.generate()


def _items(place: str, fan_out: int, count: int) -> Sequence[Json]:
    return [f"{place}/{fan_out}/{index}" for index in range(count)]


async def _work(item: ItemContext, place: Json) -> Json:
    """Ask a model, have an effect, and ask again. The second attempt at the second item is the first that succeeds."""
    reached("item started")
    heard = {f"word {place}": await item.ask(f"word {place}")}
    if str(place).endswith("/1"):
        heard[f"flaky {place}"] = await item.ask(f"flaky {place}")
        if heard[f"flaky {place}"] == BROKEN:
            raise ToolError("The model was not sure.")
    effect(f"item {place}", item.idempotency_key)
    reached("item had its effect")
    intent: Any = await item.ask(f"intent {place}", output=Literal["exchange", "question", "refund"])
    return {**heard, f"intent {place}": intent}


@tool
async def book(order: str, context: ToolContext) -> str:
    """Book something, which may happen once."""
    reached("tool started")
    effect("book", context.idempotency_key)
    reached("tool done")
    return f"booked {order}"


@tool(idempotent=True)
async def note(order: str, context: ToolContext) -> str:
    """Write something down, which may happen again."""
    effect("note", context.idempotency_key)
    return f"noted {order}"


def _question_of_ship(order: str) -> str:
    return f"person {order}/run may it be shipped?"


@tool(idempotent=True)
async def ship(order: str, context: ToolContext) -> str:
    """Ship something, if a person agrees; the first answer does not fit."""
    decision = context.ask(_question_of_ship(order), Decision)
    reached("tool got its answer")
    effect("ship", context.idempotency_key)
    return str(decision.note)


@tool(idempotent=True)
async def look_up(place: str, context: ToolContext) -> str:
    """Look something up. It is called for the items of a list."""
    reached("tool of an item started")
    effect(f"item {place}", context.idempotency_key)
    reached("tool of an item done")
    return mark(f"word {place}")


inquiry = Agent(
    Graph(
        "inquiry",
        "examine",
        [
            Node("examine", _examine, retry=RETRY),
            Subgraph(
                "ask",
                Graph(
                    "asking",
                    "confirm",
                    [Node("confirm", _confirm, retry=RETRY), Node("authorise", _authorise, retry=RETRY)],
                    {"confirm": "authorise", "authorise": END},
                ),
            ),
            Node("consult", _consult, retry=RETRY),
            Node("request", _request),
            Node("run", _run, retry=RETRY),
            Node("fan_out", _fan_out, retry=RETRY),
            Node("gather", _gather, retry=RETRY),
            Node("answer", _answer, retry=RETRY),
        ],
        {
            "examine": "ask",
            "ask": "consult",
            "consult": "request",
            "request": "run",
            "run": "fan_out",
            "fan_out": "gather",
            "gather": "answer",
            "answer": END,
        },
    ),
    instructions="You answer inquiries.",
    tools=[book, note, ship],
)
