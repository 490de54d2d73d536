"""What an endpoint says that a call has used, held against what was counted here."""

from typing import NamedTuple

from msgspec.structs import replace

from domain.models.chat import Usage

MAX_MISSING_PROMPT_TOKENS = 50
"""Tokens of a prompt that may be missing: chat formats weigh the same messages differently."""

MAX_TEMPLATE_TOKENS = 1000
"""Tokens that a provider may add to a prompt by itself."""

MAX_TOKENIZER_RATIO = 4
"""How far tokenizers are apart at most."""

MAX_MISSING_ANSWER_TOKENS = 20
"""Tokens of an answer that may be missing."""

LONGEST = 1_000_000
"""Tokens that no answer passes, thoughts that are not shown included."""

MAX_STORED_TOKENS = 10**15
"""What is kept of an absurd number: every program reads one like that exactly."""


class CheckedUsage(NamedTuple):
    """The usage that counts. `estimated`: it is our own count; `reported` is what was said instead, if anything."""

    usage: Usage
    estimated: bool
    reported: tuple[int, int] | None


def check_usage(
    usage: Usage | None, counted_prompt: int, counted_answer: int, max_tokens: int | None, *, usable: bool = True
) -> CheckedUsage:
    """Believe what an endpoint reports, unless it cannot be: budgets rest on it.

    Of an answer that is not `usable` we may have seen little, and an endpoint that ignores the limit on its length
    bills what it reports: that counts. A report that cannot be counts as the longest answer that was allowed.
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
    """Return the smallest number that can be. Where there is something, it is not nothing, however small."""
    return max(bound, 1 if counted else 0)


def _reported(usage: Usage) -> tuple[int, int]:
    prompt_tokens, completion_tokens = (
        max(-MAX_STORED_TOKENS, min(tokens, MAX_STORED_TOKENS))
        for tokens in (usage.prompt_tokens, usage.completion_tokens)
    )
    return prompt_tokens, completion_tokens
