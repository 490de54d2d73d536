"""For every policy and situation a model is chosen, and always the same one."""

import hypothesis.strategies as st
from hypothesis import given

from domain.models.routing import ModelSpec, Policy, Rule, Situation, choose

NAMES = ("large", "small", "long", "odd")
WORDS = st.sampled_from(("assistant", "support", "compact_history", "sub/compact_history"))
names = st.sampled_from(NAMES)
maybe = st.none() | st.booleans()

rules = st.builds(
    Rule, names, maybe, st.none() | st.integers(0, 20), maybe, st.none() | WORDS, st.none() | WORDS
).filter(lambda rule: rule != Rule(rule.use))
policies = st.builds(
    Policy,
    st.just({name: ModelSpec("cloud", name) for name in NAMES}),
    st.lists(names, min_size=1, unique=True).map(tuple),
    st.lists(rules, max_size=5).map(tuple),
)
situations = st.builds(
    Situation, WORDS, WORDS, st.integers(0, 30), st.booleans(), st.booleans(), st.none() | names | st.just("gone")
)


@given(policies, situations)
def test_a_choice_is_a_chain_of_known_models_without_repetition(policy: Policy, situation: Situation) -> None:
    choice = choose(policy, situation)

    assert choice.chain
    assert len(set(choice.chain)) == len(choice.chain)
    assert set(choice.chain) <= set(policy.models)
    assert choice == choose(policy, situation)


@given(policies, situations)
def test_the_chosen_is_first_and_the_policys_chain_follows_in_its_order(policy: Policy, situation: Situation) -> None:
    first, *rest = choose(policy, situation).chain

    assert rest == [name for name in policy.chain if name != first]


@given(policies, situations)
def test_there_is_a_reason_where_it_is_not_the_policys_first(policy: Policy, situation: Situation) -> None:
    choice = choose(policy, situation)

    assert bool(choice.because) == (choice.chain[0] != policy.chain[0])
    allowed = {rule.use for rule in policy.rules} | {policy.chain[0], situation.asked}
    assert choice.chain[0] in allowed
