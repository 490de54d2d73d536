"""What compaction and recall save: the tokens of a whole history that prompts leave out, and their cost."""

from domain.read_models.tables import Column, Derived
from domain.thread.events import ModelCalled
from domain.thread.state import Running
from projections.engine.projection import EventContext

CACHED_TOKENS = Column("cached_tokens", "bigint", "add", "Tokens of the prompts that were in the endpoint's cache.")
SAVED_TOKENS = Column("saved_tokens", "bigint", "add", "Tokens less than prompts with all that was ever said.")
SAVED_COST = Column("saved_cost", "bigint", "add", "What these would have cost, as `cost`.")
SAVED_USD = Derived("saved_usd", "t.saved_cost / 1e12", "What these would have cost, in dollars.")


def saved(context: EventContext[ModelCalled]) -> tuple[int, int]:
    """Return saved tokens and cost of a call. They are negative if a summary is longer than what it replaces."""
    before = context.before
    if not isinstance(before, Running) or not before.turn.everything:
        return 0, 0
    tokens = before.turn.everything - before.turn.prompt_tokens
    cost = context.prices.cost(context.event.model, abs(tokens), 0)
    return tokens, cost if tokens >= 0 else -cost
