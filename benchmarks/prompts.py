"""What agents without Threadfold show the model: everything, or the last messages that fit.

The second rule is LangGraph's usual way of keeping a conversation short, `langchain_core.messages.trim_messages` with
`strategy="last", start_on="human", include_system=True` (https://reference.langchain.com/python/langchain-core/messages/utils/trim_messages),
written anew here in a few lines, so that it counts with the same counter as everything else in the benchmark.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from examples.airline.recordings import Message
from tests.fakes.recorded_model import usage

Body: TypeAlias = dict[str, Any]
Show: TypeAlias = Callable[[Sequence[Message]], Body]
"""Makes a request of the messages so far."""


def counted(body: Body) -> int:
    """Count a prompt's tokens, as the recorded model does."""
    prompt: int = usage(body, {"role": "assistant", "content": None})["prompt_tokens"]
    return prompt


def everything(system: str, tools: Sequence[Any]) -> Show:
    """Append every message to the prompt."""

    def show(messages: Sequence[Message]) -> Body:
        return {"messages": [{"role": "system", "content": system}, *messages], "tools": tools}

    return show


def window(system: str, tools: Sequence[Any], limit: int) -> Show:
    """Show the last messages that fit into the limit, from one of the customer's on.

    If the turn alone is too long, none of the customer's is among them, and the system prompt is all there is.
    """
    show_all = everything(system, tools)
    fixed = counted(show_all([]))

    def cost(message: Message) -> int:
        return counted(show_all([message])) - fixed

    def show(messages: Sequence[Message]) -> Body:
        room, start = limit - fixed, len(messages)
        while start > 0 and (room := room - cost(messages[start - 1])) >= 0:
            start -= 1
        fitting = messages[start:]
        first = next((i for i, message in enumerate(fitting) if message["role"] == "user"), len(fitting))
        return show_all(fitting[first:])

    return show
