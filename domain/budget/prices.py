"""The price list, and the cost of model calls by it, in the units of `domain.money`."""

from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache

from msgspec import Struct

from domain.money import PER_DOLLAR
from domain.thread.events import ModelCalled
from domain.thread.state import ModelUsage


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """A model's price of a million tokens, in dollars: of prompts, and of completions.

    `cache_read` is the price of prompt tokens that the endpoint has in its cache. Without it, they cost the same.
    """

    prompt: float
    completion: float
    cache_read: float | None = None


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """A price list, as of `date`.

    A model that is not listed is priced as the longest listed name that its own name begins with. Where no listed name
    fits, it costs nothing.
    """

    date: date
    models: Mapping[str, Price] = {}

    def cost(self, model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> int:
        """Return the cost of a call in units. `prompt_tokens` include `cached_tokens`."""
        price = self._price(model)
        if price is None:
            return 0
        prompt, completion, cached = _units(price)
        return (prompt_tokens - cached_tokens) * prompt + completion_tokens * completion + cached_tokens * cached

    def of_call(self, called: ModelCalled) -> int:
        """Return the cost of a recorded call, in units."""
        return self.cost(called.model, called.prompt_tokens, called.completion_tokens, called.cached)

    def of_all(self, usage: Iterable[ModelUsage]) -> int:
        """Return the cost of what was used of several models, in units."""
        return sum(self.cost(one.model, one.prompt_tokens, one.completion_tokens, one.cached_tokens) for one in usage)

    def knows(self, model: str) -> bool:
        """Say whether the list has a price for a model."""
        return self._price(model) is not None

    def _price(self, model: str) -> Price | None:
        if price := self.models.get(model):  # no listed prefix of it is longer
            return price
        prefix = max(filter(model.startswith, self.models), key=len, default=None)
        return None if prefix is None else self.models[prefix]


@lru_cache(maxsize=1024)  # every call is priced several times, and rounding takes longer than the rest
def _units(price: Price) -> tuple[int, int, int]:
    """Return the units that a token of a prompt, of a completion and of a cached prompt costs."""
    cached = price.prompt if price.cache_read is None else price.cache_read
    prompt, completion, cached = (
        round(dollars * PER_DOLLAR / 1_000_000) for dollars in (price.prompt, price.completion, cached)
    )
    return prompt, completion, cached
