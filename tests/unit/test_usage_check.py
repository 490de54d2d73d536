"""An endpoint's count of tokens is used unless it is implausible."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from domain.models.chat import Usage
from domain.models.usage_check import LONGEST, MAX_STORED_TOKENS, CheckedUsage, check_usage


@pytest.mark.parametrize(
    "usage",
    [
        Usage(1000, 100),
        Usage(200, 20),
        Usage(5000, 100),  # a system prompt of the provider's own
        Usage(1000, 4000),  # thoughts that are not shown
        Usage(1000, LONGEST),
    ],
)
def test_what_can_be_is_believed(usage: Usage) -> None:
    assert check_usage(usage, 1000, 100, None) == CheckedUsage(usage, estimated=False, reported=None)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(0, 100),
        Usage(-1, 100),
        Usage(199, 100),
        Usage(5001, 100),
        Usage(1000, 0),
        Usage(1000, -7),
        Usage(1000, 19),
        Usage(1000, LONGEST + 1),
    ],
)
def test_what_cannot_be_is_kept_and_our_own_count_stands(usage: Usage) -> None:
    told = (usage.prompt_tokens, usage.completion_tokens)
    assert check_usage(usage, 1000, 100, None) == CheckedUsage(Usage(1000, 100), estimated=True, reported=told)


def test_nothing_at_all_is_not_believed_of_small_prompts_and_answers() -> None:
    assert check_usage(Usage(0, 3), 30, 3, None).estimated
    assert check_usage(Usage(7, 0), 30, 3, None).estimated
    assert not check_usage(Usage(7, 0), 30, 0, None).estimated


def test_no_answer_is_longer_than_it_may_be() -> None:
    assert check_usage(Usage(1000, 501), 1000, 100, 500).reported == (1000, 501)
    assert not check_usage(Usage(1000, 500), 1000, 100, 500).estimated


def test_an_answer_cut_at_its_limit_by_another_tokenizer_is_believed() -> None:
    assert not check_usage(Usage(1000, 90), 1000, 100, 95).estimated


def test_where_nothing_is_reported_our_own_count_stands() -> None:
    assert check_usage(None, 1000, 100, None) == CheckedUsage(Usage(1000, 100), estimated=True, reported=None)


def test_an_absurd_number_is_kept_as_one_that_can_be_read() -> None:
    assert check_usage(Usage(10**40, -(10**40)), 1000, 100, None).reported == (MAX_STORED_TOKENS, -MAX_STORED_TOKENS)


def test_an_unusable_answer_counts_as_long_as_it_is_said_to_be_though_it_may_not_be_as_long() -> None:
    assert check_usage(Usage(1000, 501), 1000, 100, 500, usable=False).usage == Usage(1000, 501)
    assert check_usage(Usage(10**9, 501), 1000, 100, 500, usable=False).usage == Usage(1000, 100)
    assert not check_usage(Usage(1000, 500), 1000, 100, 500, usable=False).estimated


def test_an_unusable_answer_of_an_absurd_length_counts_as_the_longest_that_was_allowed() -> None:
    told = check_usage(Usage(1000, LONGEST + 1), 1000, 100, 500, usable=False)
    assert told == CheckedUsage(Usage(1000, 500), estimated=True, reported=(1000, LONGEST + 1))
    assert check_usage(Usage(1000, LONGEST + 1), 1000, 600, 500, usable=False).usage == Usage(1000, 600)


counts = st.integers(-(10**20), 10**20)


@given(counts, counts, st.integers(0, 10**6), st.integers(0, 10**5), st.none() | st.integers(1, 10**5))
def test_what_counts_is_never_far_from_what_was_counted(
    prompt: int, answer: int, counted_prompt: int, counted_answer: int, max_tokens: int | None
) -> None:
    usage, estimated, reported = check_usage(Usage(prompt, answer), counted_prompt, counted_answer, max_tokens)

    assert 0 <= usage.prompt_tokens <= 4 * counted_prompt + 1000
    assert 0 <= usage.completion_tokens <= max(LONGEST, counted_answer)
    assert estimated == (reported is not None)
