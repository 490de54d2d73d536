"""Prompts made of a thread's conversation: the static parts, recalled messages, and as much history as fits."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from domain.agents.agent import Agent
from domain.application.turns.model_calls import PreparedPrompt
from domain.application.turns.prompt_parts import tools_text
from domain.application.turns.run import TurnServices
from domain.ids import ThreadId
from domain.prompt.assemble import LAYOUT, FixedParts, assemble, window_start
from domain.recall.excerpts import Excerpt
from domain.thread.state import Running

RECALL_SHARE = 0.2
"""The share of a prompt that recalled messages may take."""

RECALL_RESERVED_SHARE = 0.5
"""The part of that share which messages of the live window never use."""


@dataclass
class PromptBuilder:
    """Makes prompts of one state of a thread, and caches them by their limit."""

    services: TurnServices
    agent: Agent
    thread_id: ThreadId
    state: Running
    _fixed: FixedParts = field(init=False, default_factory=FixedParts)
    _prompts: dict[int, PreparedPrompt] = field(init=False, default_factory=dict)

    async def begin(self, instructions: str) -> None:
        """Prepare the static parts. Raises `StoreUnavailable`."""
        tools = tools_text([tool.spec for tool in self.agent.tools])
        self._fixed = await self.services.prompt_parts.fixed(
            instructions, tools, self.state.thread.values, self.agent.shown_values
        )

    async def build(self, limit: int) -> PreparedPrompt:
        """Make a prompt of at most so many tokens. Raises `PromptTooLarge`."""
        if limit not in self._prompts:
            count, recalled = self.services.tokens.count, await self._recalled(limit)
            make = partial(assemble, self.state, self._fixed, limit=limit, count=count, recalled=recalled)
            too_long = any(message.tokens > limit for message in self.state.thread.window)
            # Shortening a message counts it many times.
            prompt = await asyncio.to_thread(make) if too_long else make()
            self._prompts[limit] = PreparedPrompt(prompt.messages, prompt.assembled.tokens, prompt.assembled)
        return self._prompts[limit]

    async def _recalled(self, limit: int) -> Sequence[Excerpt]:
        """Search for relevant messages among those that the prompt would not show.

        Later prompts of a turn repeat what its first one has recalled, so that they share a prefix. If it recalled
        nothing, they search again only after more messages have left the prompt.
        """
        recall, repository, count = self.services.recall, self.services.repository, self.services.tokens.count
        if recall is None:
            return ()
        most, last = int(limit * RECALL_SHARE), self.state.thread.prompt
        begun = last is not None and last.of > self.state.turn.started
        same = last if last and begun and (last.limit, last.layout) == (limit, LAYOUT) else None
        if same and same.recalled:
            return await recall.again(repository, self.thread_id, same.recalled, count)
        place = window_start(
            self.state, self._fixed.tokens, limit, 0 if same else int(most * RECALL_RESERVED_SHARE), count
        )
        if same and same.first == place.first:
            return ()
        room = min(most, place.left)
        return await recall.recall(repository, self.state, self.thread_id, place.first, room, count)
