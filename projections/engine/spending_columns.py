"""Columns of what model calls used and cost, and of what compaction and recall saved.

Saved tokens are those of a whole history that a prompt leaves out.
"""

from domain.read_models.tables import COST, Column, Derived
from domain.thread.events import ModelCalled
from domain.thread.state import Running
from projections.engine.projection import EventContext

USED = (
    Column("prompt_tokens", "bigint", "add", "Tokens of the prompts."),
    Column("completion_tokens", "bigint", "add", "Tokens of the answers."),
    Column("cached_tokens", "bigint", "add", "Tokens of the prompts that were in the endpoint's cache."),
    Column("cost", "bigint", "add", "What they cost, in millionths of a millionth of a dollar."),
)
SAVED = (
    Column("saved_tokens", "bigint", "add", "Tokens less than prompts with all that was ever said."),
    Column("saved_cost", "bigint", "add", "What these would have cost, as `cost`."),
)
PRIVATE = frozenset({"slice", "cost", "saved_cost"})
IN_DOLLARS = (COST, Derived("saved_usd", "t.saved_cost / 1e12", "What these would have cost, in dollars."))


def spending(context: EventContext[ModelCalled]) -> dict[str, int]:
    """Return these columns' values for a call. Savings are negative if a summary is longer than what it replaces."""
    event, before, saved_tokens, saved_cost = context.event, context.before, 0, 0
    if isinstance(before, Running) and before.turn.everything:
        saved_tokens = before.turn.everything - before.turn.prompt_tokens
        cost = context.prices.cost(event.model, abs(saved_tokens), 0)
        saved_cost = cost if saved_tokens >= 0 else -cost
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "cached_tokens": event.cached,
        "cost": context.prices.of_call(event),
        "saved_tokens": saved_tokens,
        "saved_cost": saved_cost,
    }
