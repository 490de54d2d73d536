"""Compares the usage that an endpoint reports with our own count."""

from typing import NamedTuple

from msgspec.structs import replace

from domain.models.chat import Usage

MAX_MISSING_PROMPT_TOKENS = 50
"""Tokens of a prompt that a plausible report may lack, because chat formats differ in their overhead."""

MAX_TEMPLATE_TOKENS = 1000
"""Tokens that a provider may add to a prompt."""

MAX_TOKENIZER_RATIO = 4
"""Maximum ratio between the counts of two tokenizers."""

MAX_MISSING_ANSWER_TOKENS = 20
"""Tokens of an answer that a plausible report may lack."""

LONGEST = 1_000_000
"""Maximum tokens of an answer, including hidden reasoning."""

MAX_STORED_TOKENS = 10**15
"""Absurd numbers are stored as this: every JSON parser reads it exactly."""


class CheckedUsage(NamedTuple):
    """The usage to record. `estimated`: it is our own count. `reported` is the endpoint's implausible count, if any."""

    usage: Usage
    estimated: bool
    reported: tuple[int, int] | None


def check_usage(
    usage: Usage | None, counted_prompt: int, counted_answer: int, max_tokens: int | None, *, usable: bool = True
) -> CheckedUsage:
    """Return what an endpoint reports if that is plausible, otherwise our own count. Budgets depend on it.

    We may have seen only a part of an answer that is not `usable`, and an endpoint that ignores `max_tokens` bills what
    it reports. So such a report counts even above `max_tokens`. Above any possible length, `max_tokens` counts instead.
    """
    ours = Usage(counted_prompt, counted_answer)
    if usage is None:
        return CheckedUsage(ours, estimated=True, reported=None)
    if not usable and max_tokens is not None and usage.completion_tokens > LONGEST:
        most = Usage(usage.prompt_tokens, max(max_tokens, counted_answer))
        counted = check_usage(most, counted_prompt, counted_answer, most.completion_tokens).usage
        return CheckedUsage(counted, estimated=True, reported=_reported(usage))
    longest = min(max_tokens, LONGEST) if usable and max_tokens is not None else LONGEST
    least_prompt = _at_least(counted_prompt, counted_prompt / MAX_TOKENIZER_RATIO - MAX_MISSING_PROMPT_TOKENS)
    least_answer = _at_least(counted_answer, (counted_answer - MAX_MISSING_ANSWER_TOKENS) / MAX_TOKENIZER_RATIO)
    if (
        least_prompt <= usage.prompt_tokens <= counted_prompt * MAX_TOKENIZER_RATIO + MAX_TEMPLATE_TOKENS
        and least_answer <= usage.completion_tokens <= longest
    ):
        cached = max(0, min(usage.cached_tokens, usage.prompt_tokens))
        return CheckedUsage(replace(usage, cached_tokens=cached), estimated=False, reported=None)
    return CheckedUsage(ours, estimated=True, reported=_reported(usage))


def _at_least(counted: int, bound: float) -> float:
    """Return the smallest plausible number: `bound`, but at least 1 if anything was counted."""
    return max(bound, 1 if counted else 0)


def _reported(usage: Usage) -> tuple[int, int]:
    most = MAX_STORED_TOKENS
    return max(-most, min(usage.prompt_tokens, most)), max(-most, min(usage.completion_tokens, most))
