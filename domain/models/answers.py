"""Classifies answers of models: whether an answer is usable, how it ended, and how to ask again after an empty one.

Endpoints, servers and gateways use many names for the same finish reason. The log keeps their names; this module maps
them to a few.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar

from msgspec.structs import replace

from domain.models.chat import (
    MAX_TOOL_CALLS,
    AnswerCut,
    AnswerEmpty,
    AnswerFiltered,
    AnswerTooLarge,
    ChatAnswer,
    ChatMessage,
    ModelError,
    written_of,
)

E = TypeVar("E", bound=ModelError)

Unusual: TypeAlias = Literal["length", "refusal", "unknown_finish"]
"""How a usable answer is unusual: it was cut at its maximum length, the model refuses the request, or the finish reason
is unknown or announces tool calls that are missing."""

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

_REASONING = re.compile(r"\s*+<(think|thinking|thought|reasoning)>", re.IGNORECASE)
"""What begins reasoning at the beginning of an answer. It goes up to its closing tag or the answer's end."""

MAX_TEMPLATE_CHARACTERS = 1_000
"""Maximum characters of a text that is searched for control tokens of a chat template."""

_CONTROL_TOKENS = re.compile(r"<\|[^<>|]{1,40}\|>|</?s>")

EMPTY_HINT = "(Your last reply to this was empty. Reply now, with a text or with a tool call.)"
LENGTH_HINT = (
    "(Your last reply to this was used up by reasoning before it began. Reason only briefly, and reply now, with a "
    "text or with a tool call.)"
)


def end_of(finish_reason: str) -> End:
    """Classify a finish reason in any spelling: `content_filter`, `contentFilter`, `Reason.CONTENT-FILTER`.

    An empty one is usual, because some servers send none.
    """
    name = re.sub(r"[^a-z]", "", finish_reason.rpartition(".")[2].lower())
    return _ENDS.get(name, "unknown") if name else "usual"


def is_blank(text: str) -> bool:
    """Return whether a text has nothing to read: it is white space, or reasoning without an answer."""
    thoughts = _REASONING.match(text)
    if thoughts:
        ends = re.compile(f"</{thoughts[1]}>", re.IGNORECASE).search(text, thoughts.end())
        text = text[ends.end() :] if ends else ""
    said = text
    if len(said) <= MAX_TEMPLATE_CHARACTERS:
        said = _CONTROL_TOKENS.sub("", said)
    return not any(unicodedata.category(character)[0] not in "ZC" for character in set(said))


def check_answer(answer: ChatAnswer, *, again: bool = False) -> None:
    """Check that an answer is usable. `again`: the model was asked a second time, after an empty answer.

    Raises:
        AnswerCut: the endpoint reports that it broke the answer off.
        AnswerFiltered: the endpoint reports that it withheld the answer, or the rest of it.
        AnswerEmpty: the answer has neither text nor tool calls.
        AnswerTooLarge: the answer has too many tool calls.
    """
    if len(answer.tool_calls) > MAX_TOOL_CALLS:
        raise _unusable(AnswerTooLarge, answer, f"The model's answer asks for more than {MAX_TOOL_CALLS} calls")
    end = end_of(answer.finish_reason)
    nothing = not answer.tool_calls and is_blank(answer.content or "")
    if end == "broken":
        raise _unusable(AnswerCut, answer, "The model's endpoint broke the answer off")
    if end == "filtered" or (end == "refused" and nothing):
        raise _unusable(AnswerFiltered, answer, "A content filter of the model's endpoint withheld the answer")
    if nothing:
        at_limit = " at its maximum length" if end == "length" else ""
        asked = "The model was asked again, and" if again else "The model"
        error = _unusable(AnswerEmpty, answer, f"{asked} stopped without an answer{at_limit}")
        error.at_limit = end == "length"
        raise error


def finish_of(answer: ChatAnswer) -> Finish:
    """Return how an answer ended, "" if it ended normally.

    An answer that ends with the finish reason of tool calls and has none is incomplete: `unknown_finish`.
    """
    end = end_of(answer.finish_reason)
    if answer.refused or end == "refused":
        return "refusal"
    if answer.tool_calls or end == "usual":
        return ""
    return "length" if end == "length" else "unknown_finish"


def hint_after(error: AnswerEmpty | None) -> str:
    """Return the hint for a model that is asked again after an empty answer; "" without an error."""
    if error is None:
        return ""
    return LENGTH_HINT if error.at_limit else EMPTY_HINT


def with_hint(messages: Sequence[ChatMessage], hint: str) -> tuple[ChatMessage, ...]:
    """Add a hint to the end of a prompt. It is added to the last message, because roles must alternate."""
    if not hint:
        return tuple(messages)
    *before, last = messages
    if last.role not in {"user", "tool"}:
        return (*messages, ChatMessage("user", hint))
    return (*before, replace(last, content=f"{last.content}\n\n{hint}" if last.content else hint))


def _unusable(kind: type[E], answer: ChatAnswer, why: str) -> E:
    """Return the error of an unusable answer, with what the answer cost."""
    error = kind(f"{why} (finish reason {answer.finish_reason[:100]!r}).")
    error.accepted, error.usage, error.written = True, answer.usage, written_of(answer)
    error.finish_reason, error.model = answer.finish_reason, answer.model
    return error
