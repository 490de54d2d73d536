"""Prompts made of a thread's conversation: what is fixed, what is recalled, and what fits."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from domain.agents.agent import Agent
from domain.application.turns.model_calls import PreparedPrompt
from domain.application.turns.prompt_parts import tools_text
from domain.application.turns.run import TurnServices
from domain.ids import ThreadId
from domain.prompt.assemble import LAYOUT, AssembledPrompt, FixedParts, assemble, window_start
from domain.recall.excerpts import Excerpt
from domain.thread.state import Running

RECALLED = 0.2
"""The share of a prompt that older messages may take which are shown again."""

RESERVED = 0.5
"""The part of that share which messages of the live window never take."""


@dataclass
class PromptBuilder:
    """Makes prompts of one state of a thread, each length once."""

    services: TurnServices
    agent: Agent
    thread_id: ThreadId
    state: Running
    _fixed: FixedParts = field(init=False, default_factory=FixedParts)
    _made: dict[int, PreparedPrompt] = field(init=False, default_factory=dict)

    async def begin(self, instructions: str) -> None:
        """Take what every prompt holds. Raises `StoreUnavailable`."""
        tools = tools_text([tool.spec for tool in self.agent.tools])
        self._fixed = await self.services.prompt_parts.fixed(
            instructions, tools, self.state.thread.values, self.agent.shown_values
        )

    async def build(self, limit: int) -> PreparedPrompt:
        """Make a prompt of at most so many tokens. Raises `PromptTooLarge`."""
        if limit not in self._made:
            context = await self._assembled(limit)
            self._made[limit] = PreparedPrompt(context.messages, context.assembled.tokens, context.assembled)
        return self._made[limit]

    async def _assembled(self, limit: int) -> AssembledPrompt:
        count, window = self.services.tokens.count, self.state.thread.window
        recalled = await self._recalled(limit)
        make = partial(assemble, self.state, self._fixed, limit=limit, count=count, recalled=recalled)
        if any(message.tokens > limit for message in window):  # then it is shortened, and counted over and over
            return await asyncio.to_thread(make)
        return make()

    async def _recalled(self, limit: int) -> Sequence[Excerpt]:
        """Look for what matters again among the messages that would not be shown.

        What a prompt of the turn has recalled, the next ones have, so that they begin alike. If that was nothing, they
        look again only after messages had to leave them.
        """
        recall, repository, count = self.services.recall, self.services.repository, self.services.tokens.count
        if recall is None:
            return ()
        most, last = int(limit * RECALLED), self.state.thread.prompt
        begun = last is not None and last.of > self.state.turn.started
        same = last if last and begun and (last.limit, last.layout) == (limit, LAYOUT) else None
        if same and same.recalled:
            return await recall.again(repository, self.thread_id, same.recalled, count)
        place = window_start(self.state, self._fixed.tokens, limit, 0 if same else int(most * RESERVED), count)
        if same and same.first == place.first:
            return ()
        room = min(most, place.left)
        return await recall.recall(repository, self.state, self.thread_id, place.first, room, count)
