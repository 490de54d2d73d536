"""What an answer amounts to: whether it is one, how it ended, and how to ask again where it is none.

Endpoints call the same end many names, as the servers and gateways behind them do. The log keeps their words; here
they are brought down to a few.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec.structs import replace

from domain.models.chat import AnswerCut, AnswerEmpty, AnswerFiltered, ChatAnswer, ChatMessage, ModelError, written_of

Unusual: TypeAlias = Literal["length", "refusal", "unknown_finish"]
"""What is to be known of an answer that is one: it was cut at its longest, the model refuses to do what was asked, or
the endpoint gives a reason for its end that is not known here, or calls of tools where there are none."""

Finish: TypeAlias = Literal[""] | Unusual

End: TypeAlias = Literal["usual", "calls", "length", "filtered", "refused", "broken", "unknown"]

_FINISH_REASONS: dict[End, str] = {
    "usual": "stop endturn stopsequence eos eostoken complete completed end finish finished done",
    "calls": "toolcalls toolcall tooluse functioncall",
    "length": "length maxtokens maxtoken maxoutputtokens maxcompletiontokens maxlength modellength tokenlimit "
    "modelcontextwindowexceeded contextwindowexceeded contextlengthexceeded truncated errorlimit",
    "filtered": "contentfilter contentfiltered safety imagesafety prohibitedcontent recitation blocklist spii "
    "sensitive guardrail guardrails guardrailintervened moderation blocked flagged unsafe errortoxic policyviolation",
    "refused": "refusal refused",
    "broken": "error errored networkerror servererror internalerror exception abort aborted cancel cancelled canceled "
    "interrupted timeout failed failure overloaded insufficientsystemresource malformedfunctioncall "
    "unexpectedtoolcall",
}
_ENDS = {name: end for end, names in _FINISH_REASONS.items() for name in names.split()}

_REASONING = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
"""Thoughts that a model writes into its answer, at its beginning; they may end with it."""

MAX_TEMPLATE_CHARACTERS = 1_000
"""Characters of a text that may be nothing but a template's tokens."""

_CONTROL_TOKENS = re.compile(r"<\|[^<>|]{1,40}\|>|</?s>")

EMPTY_HINT = "(Your last reply to this was empty. Reply now, with a text or with a tool call.)"
LENGTH_HINT = (
    "(Your last reply to this was used up by reasoning before it began. Reason only briefly, and reply now, with a "
    "text or with a tool call.)"
)


def end_of(finish_reason: str) -> End:
    """Say what a finish reason means, however it is spelt: `content_filter`, `contentFilter`, `Reason.CONTENT-FILTER`.

    None at all is usual: some servers give none.
    """
    name = re.sub(r"[^a-z]", "", finish_reason.rpartition(".")[2].lower())
    return _ENDS.get(name, "unknown") if name else "usual"


def is_blank(text: str) -> bool:
    """Say whether there is nothing to read in a text: it is white space, or reasoning without an answer."""
    thoughts = _REASONING.match(text)
    said = text[thoughts.end() :] if thoughts else text
    if len(said) <= MAX_TEMPLATE_CHARACTERS:
        said = _CONTROL_TOKENS.sub("", said)
    return not any(unicodedata.category(character)[0] not in "ZC" for character in said)


def check_answer(answer: ChatAnswer, *, again: bool = False) -> None:
    """Refuse what only looks like an answer. `again`: the model was asked a second time since its first was none.

    Raises:
        AnswerCut: the endpoint says that it broke the answer off.
        AnswerFiltered: it says that it kept the answer, or the rest of it, back.
        AnswerEmpty: there is nothing to read and nothing to run.
    """
    end, said = end_of(answer.finish_reason), f"finish reason {answer.finish_reason[:100]!r}"
    nothing = not answer.tool_calls and is_blank(answer.content or "")
    if end == "broken":
        raise _with_cost(AnswerCut(f"The model's endpoint broke the answer off ({said})."), answer)
    if end == "filtered" or (end == "refused" and nothing):
        raise _with_cost(
            AnswerFiltered(f"A content filter of the model's endpoint kept the answer back ({said})."), answer
        )
    if nothing:
        too_short = ", when it had written all that it may" if end == "length" else ""
        once_more = "The model was asked again, and" if again else "The model"
        error = AnswerEmpty(f"{once_more} stopped without an answer{too_short} ({said}).")
        error.at_limit = end == "length"
        raise _with_cost(error, answer)


def finish_of(answer: ChatAnswer) -> Finish:
    """Say how an answer ended, where that is not the usual way.

    A text that ends for calls, and has none, lacks what the model was about to do.
    """
    end = end_of(answer.finish_reason)
    if answer.refused or end == "refused":
        return "refusal"
    if answer.tool_calls or end == "usual":
        return ""
    return "length" if end == "length" else "unknown_finish"


def hint_after(error: AnswerEmpty | None) -> str:
    """Return what to tell a model that is asked again; nothing where it is asked for the first time."""
    if error is None:
        return ""
    return LENGTH_HINT if error.at_limit else EMPTY_HINT


def with_hint(messages: Sequence[ChatMessage], hint: str) -> tuple[ChatMessage, ...]:
    """Add a hint to the end of a prompt. It joins the last message, since roles have to alternate."""
    if not hint:
        return tuple(messages)
    *before, last = messages
    if last.role not in {"user", "tool"}:
        return (*messages, ChatMessage("user", hint))
    return (*before, replace(last, content=f"{last.content}\n\n{hint}" if last.content else hint))


def _with_cost(error: ModelError, answer: ChatAnswer) -> ModelError:
    error.accepted, error.usage, error.written = True, answer.usage, written_of(answer)
    error.finish_reason, error.model = answer.finish_reason, answer.model
    return error
