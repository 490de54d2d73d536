"""Chooses the model for a prompt: rules as data, and a chain of models to fall back on."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from domain.errors import InvalidInput

Tokens = Annotated[int, Meta(ge=1, le=10**9)]


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A model at a provider. `model` is the provider's name; rules and chains use the model's name in the policy.

    `context_window` and `max_answer` are in tokens; None: as in the settings.
    """

    provider: str
    model: str
    context_window: Tokens | None = None
    max_answer: Tokens | None = None


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """Use a model if all conditions hold. A condition that is None is not checked.

    `strained`: most of a budget is spent. `prompt_over`: the prompt has more tokens than this. `tools`: the model is
    offered tools. `node` and `agent` are names; a subgraph's node matches by its own name and by its full name.
    """

    use: str
    strained: bool | None = None
    prompt_over: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    tools: bool | None = None
    node: str | None = None
    agent: str | None = None


class Policy(Struct, frozen=True):
    """The models by name, the rules in the order of their checks, and the chain of models if no rule holds.

    The next model of a chain is asked if the ones before it do not answer.
    """

    models: Mapping[str, ModelSpec]
    chain: tuple[str, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def usual(self) -> ModelSpec:
        """The first model of the chain."""
        return self.models[self.chain[0]]

    def __post_init__(self) -> None:
        """Check that every choice names a model. Raises `InvalidInput` with a field such as `rules.0.use`."""
        if not self.chain:
            raise InvalidInput("chain", "must name at least one model")
        if len(set(self.chain)) < len(self.chain):
            raise InvalidInput("chain", "must not name a model twice")
        for name in self.chain:
            self._check("chain", name)
        for index, rule in enumerate(self.rules):
            self._check(f"rules.{index}.use", rule.use)
            if rule == Rule(rule.use):
                why = "must have a condition; to use a model always, put it first in the chain"
                raise InvalidInput(f"rules.{index}", why)

    def _check(self, field: str, name: str) -> None:
        if name not in self.models:
            raise InvalidInput(field, f"unknown model {name!r}; known models: {', '.join(self.models) or 'none'}")


class Situation(Struct, frozen=True):
    """What a choice depends on. `asked` is the model that the agent names, or None."""

    agent: str
    node: str
    prompt_tokens: int
    tools: bool
    strained: bool = False
    asked: str | None = None


class Choice(Struct, frozen=True):
    """The names of the models to ask, in order, and why the first is not the policy's first; "" if it is."""

    chain: tuple[str, ...]
    because: str = ""


def choose(policy: Policy, situation: Situation) -> Choice:
    """Choose the agent's model, or else that of the first rule that holds. The rest of the policy's chain follows."""
    if situation.asked is not None and situation.asked in policy.models:
        return _choice(policy, situation.asked, "the agent asks for it")
    for rule in policy.rules:
        if (reasons := _reasons(rule, situation)) is not None:
            return _choice(policy, rule.use, ", ".join(reasons))
    return Choice(policy.chain)


def _choice(policy: Policy, name: str, because: str) -> Choice:
    chain = (name, *(other for other in policy.chain if other != name))
    return Choice(chain, "" if name == policy.chain[0] else because)


def _reasons(rule: Rule, now: Situation) -> list[str] | None:
    """Return why a rule holds; None if it does not."""
    strained = "most of a budget is spent" if now.strained else "no budget is strained"
    tools = "tools are offered" if now.tools else "no tools are offered"
    over = f"the prompt has more than {rule.prompt_over} tokens"
    conditions = [
        (rule.strained, rule.strained == now.strained, strained),
        (rule.prompt_over, now.prompt_tokens > (rule.prompt_over or 0), over),
        (rule.tools, rule.tools == now.tools, tools),
        (rule.node, rule.node in {now.node, now.node.rpartition("/")[2]}, f"the node is {rule.node}"),
        (rule.agent, rule.agent == now.agent, f"the agent is {rule.agent}"),
    ]
    checked = [(holds, reason) for condition, holds, reason in conditions if condition is not None]
    return [reason for _, reason in checked] if all(holds for holds, _ in checked) else None
