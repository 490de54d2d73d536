"""A turn recalls once, and only what matches the question better than what the prompt shows anyway."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from uuid import uuid4

from domain.agents.assistant import assistant
from domain.agents.tools import tool
from domain.application.recall.search import MessageSearch, _relevant
from domain.ids import ThreadId, Version
from domain.ports.recall import Lineage
from domain.prompt.application_context import BEGINS
from domain.recall.bm25 import Hit, score_of
from domain.recall.terms import Term, terms_of
from domain.recall.word_index import WordIndex, find, term_ids_of
from domain.thread.events import ContextAssembled
from tests.support.recalling import All
from tests.support.runtime import calls, says, stage

THREAD = ThreadId(uuid4())


@dataclass
class Counting(All):
    """Finds all, and counts how often it was asked."""

    asked: list[Version] = field(default_factory=list)

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        self.asked.append(before)
        return await super().find(lineage, terms, before, limit)


@tool(idempotent=True)
async def fares(number: int) -> str:
    """Say a little."""
    return f"fare {number} is W"


async def test_all_prompts_of_a_turn_hold_what_the_first_one_recalled() -> None:
    finder = Counting()
    talk = [says(f"The refund of {n} is known. " + "word " * 60) for n in range(6)]
    asks = [calls(("fares", {"number": n})) for n in range(3)]
    played = stage(assistant(instructions="", tools=[fares]), *talk, *asks, says("done"), context_window=500)
    played.turns.services = replace_fields(played.turns.services, recall=MessageSearch(finder))
    for number in range(6):
        await played.say(f"Where is refund number {number}?")
    before = len(finder.asked)
    await played.say("What was the refund of 1?")
    assert len(finder.asked) == before + 1
    prompts = [event for event in await played.happened(ContextAssembled) if isinstance(event, ContextAssembled)][-4:]
    assert prompts[0].recalled
    assert len({prompt.recalled for prompt in prompts}) == 1
    asked = [
        next(m.content or "" for m in reversed(request.messages) if m.role == "user")
        for request in played.script.asked[-4:]
    ]
    assert len(set(asked)) == 1
    assert asked[0].startswith(BEGINS)


def hits(question: str, *said: str) -> Sequence[Hit]:
    concordance = WordIndex().extended(range(1, len(said) + 1), list(map(term_ids_of, said)), ["user"] * len(said))
    return find([(THREAD, concordance, Version(len(said)))], terms_of(question), 48)


TALK = ("Boston has an airport.", *["A flight is a flight, and cabins are cabins."] * 40)


def test_an_older_message_must_match_better_than_those_that_are_shown() -> None:
    question = "When does the flight PEP4E0 to Boston leave?"
    found = hits(question, *TALK)
    assert [hit.version for hit in _relevant(found, Version(30), terms_of(question), ())] == [1]
    again = hits(question, *TALK, "Your flight PEP4E0 to Boston is late.")
    assert _relevant(again, Version(42), terms_of(question), ()) == [], "what is asked about is shown"


def test_messages_that_are_not_indexed_yet_count_as_well() -> None:
    question = "When does the flight PEP4E0 to Boston leave?"
    found = hits(question, *TALK)
    newest = ["Your flight PEP4E0 to Boston is late.", "Oh no!"]
    assert _relevant(found, Version(42), terms_of(question), newest) == []
    assert score_of([], terms_of(question), found[0].weights) == 0


def test_common_words_alone_recall_nothing() -> None:
    question = "Which cabins has a flight?"
    assert hits(question, *TALK)
    assert _relevant(hits(question, *TALK), Version(42), terms_of(question), ()) == []
