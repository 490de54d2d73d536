"""What models cost: a price list, and the costs of calls by it, in units of money (see `domain.money`)."""

from collections.abc import Iterable, Mapping
from datetime import date

from msgspec import Struct

from domain.money import PER_DOLLAR
from domain.thread.events import ModelCalled
from domain.thread.state import ModelUsage


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """What a million tokens of a model cost, in dollars: of prompts, and of answers.

    `cache_read` is the price of a prompt's tokens that the endpoint has in its cache; without it, they cost as others.
    """

    prompt: float
    completion: float
    cache_read: float | None = None


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """A price list. A model that is not in it is priced as the longest name in it that its own name begins with.

    `date` is when the list was made. Models that no name fits cost nothing.
    """

    date: date
    models: Mapping[str, Price] = {}

    def cost(self, model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> int:
        """Price a number of tokens, in units; `cached_tokens` are among those of the prompt."""
        price = self._price(model)
        if price is None:
            return 0
        cached = price.prompt if price.cache_read is None else price.cache_read
        new = (prompt_tokens - cached_tokens) * _unit(price.prompt) + completion_tokens * _unit(price.completion)
        return new + cached_tokens * _unit(cached)

    def of_call(self, called: ModelCalled) -> int:
        """Price a call, in units."""
        return self.cost(called.model, called.prompt_tokens, called.completion_tokens, called.cached)

    def of_all(self, usage: Iterable[ModelUsage]) -> int:
        """Price what was used of several models, in units."""
        return sum(
            self.cost(used.model, used.prompt_tokens, used.completion_tokens, used.cached_tokens) for used in usage
        )

    def knows(self, model: str) -> bool:
        """Say whether there is a price for a model."""
        return self._price(model) is not None

    def _price(self, model: str) -> Price | None:
        if price := self.models.get(model):  # no other name that it begins with is longer
            return price
        fitting = [name for name in self.models if model.startswith(name)]
        return self.models[max(fitting, key=len)] if fitting else None


def _unit(dollars_per_million: float) -> int:
    """Turn dollars a million tokens into units a token."""
    return round(dollars_per_million * PER_DOLLAR / 1_000_000)
