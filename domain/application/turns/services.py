"""What the runs of turns use: the repository, models, budgets and so on."""

from collections.abc import Callable
from dataclasses import dataclass

from domain.agents.tools import Tool
from domain.application.budget.turn_budget import BudgetServices
from domain.application.recall.search import MessageSearch
from domain.application.streaming.broadcast import Broadcast
from domain.application.thread_repository import ThreadRepository
from domain.application.turns.model_registry import ModelRegistry
from domain.application.turns.prompt_parts import PromptParts
from domain.ports.hot import HotStore
from domain.ports.tokens import TokenCounter


@dataclass(frozen=True)
class TurnServices:
    """The collaborators that all runs share."""

    repository: ThreadRepository
    models: ModelRegistry
    tokens: TokenCounter
    broadcast: Broadcast
    context_window: int
    """Tokens of a prompt, at most."""
    account: BudgetServices
    prompt_parts: PromptParts
    hot: HotStore | None = None
    """Holds answers of durability `async` until they are stored; without one, only this process's memory does."""
    recall: MessageSearch | None = None
    """Finds older messages that are relevant again. Without one, nothing is recalled."""
    item_tool: Callable[[Tool], Tool] = lambda tool: tool
    """Returns what is called for the items of a list that is mapped over a tool: in a replay, the recorded results."""
