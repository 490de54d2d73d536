"""Prompts grow at their end: providers that cache what prompts begin with find it again from call to call.

A thread is folded as it would be in the log, and each of its prompts is compared with the one before.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from uuid import UUID

import hypothesis.strategies as st
from hypothesis import given, settings
from msgspec import Struct

from domain.errors import PromptTooLarge
from domain.ids import Version
from domain.models.chat import ChatMessage, ChatRequest, ToolSpec
from domain.prompt.application_context import BEGINS, without_block
from domain.prompt.assemble import REFILL_SHARE, AssembledPrompt, FixedParts, assemble, system_text
from domain.prompt.reconstruct import reconstruct_prompt
from domain.recall.excerpts import Excerpt, FoundMessage
from domain.thread.events import (
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    NodeCompleted,
    StateUpdated,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.state import INITIAL, Running, State
from infrastructure.models.openai.request import write_request
from tests.support.examples import examples

LIMIT = 400
INSTRUCTIONS = "be brief"


def words(text: str) -> int:
    return len(text.split())


class Say(Struct, frozen=True):
    """A turn: what the user says, what its tools answer one after the other, what the model says, what is recalled."""

    question: int
    results: tuple[int, ...]
    answer: int
    recalled: tuple[int, ...]
    value: int
    compacts: bool


turns = st.builds(
    Say,
    st.integers(1, 60),
    st.lists(st.integers(1, 250), max_size=4).map(tuple),
    st.integers(1, 60),
    st.lists(st.integers(1, 30), max_size=3).map(tuple),
    st.integers(0, 2),
    st.booleans(),
)


class Prompt(Struct, frozen=True):
    """A prompt, the turn that it is of, and how many summaries there were."""

    turn: int
    compacted: int
    state: Running
    context: AssembledPrompt
    older: Mapping[int, FoundMessage]
    known: str


class Talk:
    """A thread that is talked in."""

    def __init__(self) -> None:
        self.state: State = fold(INITIAL, [ThreadOpened("assistant")])
        self.prompts: list[Prompt] = []
        self.compacted = 0

    def happened(self, *events: Event) -> None:
        self.state = fold(self.state, events)

    def prompt(self, number: int, said: Say) -> None:
        """Ask the model: in a turn, it is always given the same."""
        assert isinstance(self.state, Running)
        again = [
            Excerpt(Version(10_000 + n), "user", 0, "again " * length, 0, "matches again")
            for n, length in enumerate(said.recalled)
        ]
        known = f"plan: {said.value}" if said.value else ""
        fixed = FixedParts(INSTRUCTIONS, 60, ("instructions", "", "known" if known else ""), ("plan",), known)
        context = assemble(self.state, fixed, limit=LIMIT, count=words, recalled=again)
        older: dict[int, FoundMessage] = {e.message: FoundMessage(e.message, e.who, e.text) for e in again}
        self.prompts.append(Prompt(number, self.compacted, self.state, context, older, known))
        self.happened(context.assembled)

    def turn(self, number: int, said: Say) -> None:
        turn_id = UUID(int=number + 1)
        self.happened(TurnStarted(turn_id, "generate_response", "f00"), StateUpdated({"plan": said.value}))
        self.happened(MessageAppended("user", f"question {number} " + "q " * said.question, said.question + 2))
        for place, result in enumerate(said.results):
            self.prompt(number, said)
            self.happened(MessageAppended("assistant", None, 5))
            call = self.state.version + 1
            self.happened(ToolRequested(f"call {number} {place}", "clock", {}), ToolStarted(call))
            self.happened(ToolSucceeded(call, "r " * result, result, 1))
        self.prompt(number, said)
        self.happened(MessageAppended("assistant", "a " * said.answer, said.answer))
        assert isinstance(self.state, Running)
        if said.compacts and len(self.state.thread.window) > 2:
            question = max(m.version for m in self.state.thread.window if m.role == "user")
            self.happened(HistoryCompacted(question - 1, f"summary {number}", 2))
            self.compacted += 1
        self.happened(NodeCompleted("generate_response", "END", 1, 1), TurnCompleted(turn_id))


def talked(said: Sequence[Say]) -> Sequence[Prompt]:
    talk = Talk()
    try:
        for number, one in enumerate(said):
            talk.turn(number, one)
    except PromptTooLarge:  # such as a question and a result that only fit together when they are shortened
        pass
    return talk.prompts


def asked_at(prompt: Prompt) -> int:
    """Where the user's last message is."""
    return max(place for place, message in enumerate(prompt.context.messages) if message.role == "user")


def bare(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Messages without what was given beside them."""
    return [ChatMessage(m.role, without_block(m.content) if m.content else m.content, m.tool_calls) for m in messages]


def goes_on(before: Prompt, after: Prompt) -> bool:
    """Neither was compacted in between, nor did anything have to leave the prompt, or to be shortened."""
    was, now = before.context.assembled, after.context.assembled
    return (before.compacted, was.first, was.pinned, was.shortened) == (
        after.compacted,
        now.first,
        now.pinned,
        now.shortened,
    )


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(turns, min_size=2, max_size=8))
def test_between_compactions_each_prompt_goes_on_where_the_last_one_ended(said: list[Say]) -> None:
    prompts = talked(said)
    for before, after in pairwise(prompts):
        was, now = before.context.messages, after.context.messages
        if not goes_on(before, after):
            continue
        if before.turn == after.turn and before.context.assembled.recalled == after.context.assembled.recalled:
            assert now[: len(was)] == was, "in a turn, even what is given with it stays as it is"
        else:
            place = asked_at(before)
            assert now[:place] == was[:place], "what was before the user's last words stays as it is"
            assert bare(now[: len(was)]) == bare(was), "and then comes what was said, without what was given"
        assert BEGINS not in "".join(m.content or "" for m in now[: asked_at(after)]), "it stands at the end alone"


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(turns, min_size=2, max_size=8))
def test_what_has_to_leave_a_prompt_leaves_in_large_steps(said: list[Say]) -> None:
    prompts = talked(said)
    for before, after in pairwise(prompts):
        was, now = before.context.assembled, after.context.assembled
        if before.compacted != after.compacted or now.first == was.first or not was.first:
            continue
        shown = [m for m in after.state.thread.window if now.first <= m.version <= now.last]
        newest = max(i for i, m in enumerate(shown) if m.role != "tool")
        if newest:  # more than the newest group, which is shown in any case
            assert now.tokens - now.recalled_tokens <= now.fixed + LIMIT * REFILL_SHARE + 80, "much left at once"


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(turns, min_size=1, max_size=6))
def test_every_prompt_of_a_thread_is_found_again(said: list[Say]) -> None:
    for prompt in talked(said):
        texts = {"instructions": INSTRUCTIONS, "known": prompt.known}
        found = reconstruct_prompt(prompt.state, prompt.context.assembled, texts, prompt.older, words)
        assert tuple(found.messages) == prompt.context.messages
        assert sum(piece.tokens for piece in found.pieces) <= prompt.context.assembled.tokens
        assert found.exact


TOOLS = (ToolSpec("clock", "", {"type": "object"}),)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(turns, min_size=2, max_size=6))
def test_bodies_of_requests_begin_alike(said: list[Say]) -> None:
    prompts = talked(said)
    for before, after in pairwise(prompts):
        if goes_on(before, after):
            requests = (ChatRequest(prompt.context.messages, TOOLS) for prompt in (before, after))
            was, now = (write_request(request, "m", ["stream", "tools"]) for request in requests)
            place = was.rindex(b'{"role":"user"')
            assert was[:place] == now[:place]


def test_a_summary_stands_with_the_instructions() -> None:
    talk = Talk()
    for number in range(2):
        talk.turn(number, Say(3, (), 3, (), 1, compacts=number == 0))
    talk.turn(2, Say(3, (), 3, (), 1, compacts=True))
    talk.turn(3, Say(3, (), 3, (), 1, compacts=False))
    last = talk.prompts[-1]
    assert last.context.messages[0].content == system_text(INSTRUCTIONS, last.state.thread.summary)
    assert "plan" not in (last.context.messages[0].content or "")
    assert isinstance(last.context.assembled, ContextAssembled)
