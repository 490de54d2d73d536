"""Which model is asked, and the recorded reason."""

import pytest
from msgspec.structs import replace

from domain.errors import InvalidInput
from domain.models.routing import Choice, ModelSpec, Policy, Rule, Situation, choose

MODELS = {name: ModelSpec("cloud", f"the-{name}") for name in ("large", "small", "long")}
PLAIN = Situation("assistant", "generate_response", prompt_tokens=500, tools=False)


def policy(*rules: Rule) -> Policy:
    return Policy(MODELS, ("large", "small"), rules)


def test_without_a_rule_the_chain_is_asked_in_its_order() -> None:
    assert choose(policy(), PLAIN) == Choice(("large", "small"))


@pytest.mark.parametrize(
    ("rule", "change", "because"),
    [
        (Rule("small", strained=True), {"strained": True}, "most of a budget is spent"),
        (Rule("small", prompt_over=500), {"prompt_tokens": 501}, "the prompt has more than 500 tokens"),
        (Rule("small", prompt_over=0, tools=True), {"tools": True}, "the prompt has more than 0 tokens, tools are"),
        (Rule("small", node="compact_history"), {"node": "compact_history"}, "the node is compact_history"),
        (Rule("small", node="compact_history"), {"node": "desk/compact_history"}, "the node is compact_history"),
        (Rule("small", node="desk/compact_history"), {"node": "desk/compact_history"}, "the node is desk/compact_"),
        (Rule("small", agent="support"), {"agent": "support"}, "the agent is support"),
    ],
)
def test_a_rule_holds_where_all_of_it_does_and_says_why(rule: Rule, change: dict[str, object], because: str) -> None:
    assert choose(policy(rule), PLAIN) == Choice(("large", "small"))

    choice = choose(policy(rule), replace(PLAIN, **change))

    assert choice.chain == ("small", "large")
    assert choice.because.startswith(because)


def test_what_does_not_hold_can_be_a_condition_too() -> None:
    rule = Rule("small", strained=False, tools=False)

    assert choose(policy(rule), PLAIN).because == "no budget is strained, no tools are offered"
    assert choose(policy(rule), replace(PLAIN, tools=True)).because == ""


def test_a_rule_of_which_half_holds_does_not() -> None:
    rule = Rule("small", strained=True, tools=True)

    assert choose(policy(rule), replace(PLAIN, strained=True)).chain == ("large", "small")


def test_the_first_rule_that_holds_counts() -> None:
    rules = Rule("long", prompt_over=400), Rule("small", tools=False)

    assert choose(policy(*rules), PLAIN).chain == ("long", "large", "small")


def test_a_rule_for_the_first_choice_keeps_later_ones_out_and_needs_no_reason() -> None:
    rules = Rule("large", agent="assistant"), Rule("small", tools=False)

    assert choose(policy(*rules), PLAIN) == Choice(("large", "small"))


def test_what_the_agent_asks_for_goes_before_the_rules() -> None:
    asking = replace(PLAIN, asked="long")

    assert choose(policy(Rule("small", tools=False)), asking) == Choice(
        ("long", "large", "small"), "the agent asks for it"
    )
    assert choose(policy(), replace(PLAIN, asked="large")) == Choice(("large", "small"))


def test_an_unknown_model_is_not_asked() -> None:
    assert choose(policy(), replace(PLAIN, asked="gone")) == Choice(("large", "small"))


@pytest.mark.parametrize(
    ("chain", "rules", "field"),
    [
        ((), (), "chain"),
        (("large", "large"), (), "chain"),
        (("gone",), (), "chain"),
        (("large",), (Rule("small", tools=True), Rule("gone", tools=True)), "rules.1.use"),
        (("large",), (Rule("small"),), "rules.0"),
    ],
)
def test_a_policy_that_leads_nowhere_is_refused(chain: tuple[str, ...], rules: tuple[Rule, ...], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Policy(MODELS, chain, rules)

    assert caught.value.field == field
