"""Which model answers a prompt: rules as data, and a chain to go on along where one does not answer."""

from collections.abc import Mapping

from msgspec import Struct


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A model at a provider. `model` is what the provider calls it.

    `context_window` and `max_answer` are in tokens; None: the settings say it. `prompt_over` and so on of a rule name
    it by its name in the policy.
    """

    provider: str
    model: str
    context_window: int | None = None
    max_answer: int | None = None


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """Use a model where all that is said here holds. What is None does not matter.

    `strained`: most of a budget is spent. `prompt_over`: the prompt has more tokens than that. `tools`: the model is
    offered tools. `node` and `agent` are names.
    """

    use: str
    strained: bool | None = None
    prompt_over: int | None = None
    tools: bool | None = None
    node: str | None = None
    agent: str | None = None


class Policy(Struct, frozen=True):
    """The models by their names, the rules in the order that they are tried, and the chain where none holds.

    A chain's later models are asked where the ones before do not answer.
    """

    models: Mapping[str, ModelSpec]
    chain: tuple[str, ...]
    rules: tuple[Rule, ...] = ()


class Situation(Struct, frozen=True):
    """What a choice depends on. `asked` is the model that the agent names, if it does."""

    agent: str
    node: str
    prompt_tokens: int
    tools: bool
    strained: bool = False
    asked: str | None = None


class Choice(Struct, frozen=True):
    """The names of models to ask, one after the other, and why the first is not the policy's own; "" if it is."""

    chain: tuple[str, ...]
    because: str = ""


def choose(policy: Policy, situation: Situation) -> Choice:
    """Choose by the first rule that holds. The rest of the policy's chain follows."""
    if situation.asked is not None and situation.asked in policy.models:
        return Choice(_first(situation.asked, policy.chain), "the agent asks for it")
    for rule in policy.rules:
        if (why := _holds(rule, situation)) is not None:
            return Choice(_first(rule.use, policy.chain), why if rule.use != policy.chain[0] else "")
    return Choice(policy.chain)


def _first(name: str, chain: tuple[str, ...]) -> tuple[str, ...]:
    return (name, *(other for other in chain if other != name))


def _holds(rule: Rule, situation: Situation) -> str | None:
    """Say why a rule holds; None if it does not."""
    reasons = []
    if rule.strained is not None:
        if rule.strained != situation.strained:
            return None
        reasons.append("most of a budget is spent" if rule.strained else "no budget is strained")
    if rule.prompt_over is not None:
        if situation.prompt_tokens <= rule.prompt_over:
            return None
        reasons.append(f"the prompt has more than {rule.prompt_over} tokens")
    if rule.tools is not None:
        if rule.tools != situation.tools:
            return None
        reasons.append("tools are offered" if rule.tools else "no tools are offered")
    for what, wanted, actual in (("node", rule.node, situation.node), ("agent", rule.agent, situation.agent)):
        if wanted is not None:
            if wanted != actual:
                return None
            reasons.append(f"the {what} is {wanted}")
    return ", ".join(reasons)
