"""One attempt at a node, as its calls of models and tools and its fan-out see it."""

from collections.abc import Sequence
from typing import Protocol

from domain.agents.agent import Agent
from domain.application.turns.run import TurnRun
from domain.thread.codec import Recorded
from domain.thread.commands import RuntimeCommand
from domain.thread.state import Running


class NodeAttempt(Protocol):
    """One attempt at a node."""

    @property
    def run(self) -> TurnRun:
        """The turn's run."""

    @property
    def agent(self) -> Agent:
        """The agent whose turn it is."""

    @property
    def state(self) -> Running:
        """The state now. Raises `TurnIsOver` if the attempt is over."""

    async def report(self, command: RuntimeCommand, *, durable: bool = True, soon: bool = False) -> Sequence[Recorded]:
        """Report for the node. Raises `TurnIsOver` if the attempt is over; see `TurnRun.report`."""
