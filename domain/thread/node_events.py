"""Checks of the events that a node records."""

from msgspec.structs import replace

from domain.errors import InvalidInput
from domain.json import JsonObject, check_fields, copied, merge_patch
from domain.thread import events, size_limits
from domain.thread.state import Running

_NOT_CHECKED = (events.ContextAssembled, events.ModelCalled, events.ModelAnswered, events.BudgetThresholdReached)
"""Events that the runtime makes for a node."""


def check_node_events(facts: tuple[events.NodeEvent, ...], state: Running) -> None:
    """Check that a prompt can be made of the thread's state after a node's events, and that they are not too large.

    Raises:
        InvalidInput: its field names the event, as `facts.0`.
    """
    speaker = state.thread.window[-1].role if state.thread.window else None
    asking, values, size = bool(state.turn.calls), state.thread.values, 0
    for index, fact in enumerate(facts):
        field = f"facts.{index}"
        if isinstance(fact, events.Event):
            check_fields(fact, f"{field}.")
        match fact:
            case events.MessageAppended():
                if fact.role != "assistant" or asking:
                    raise InvalidInput(field, "a node's message must have the role assistant, and no call may be open")
                size += size_limits.check_text_size(fact.content, f"{field}.content")
                size += _check_extra(fact.extra, field)
                speaker = fact.role
            case events.ToolRequested():
                if speaker != "assistant":
                    raise InvalidInput(field, "a tool request must follow a message of the assistant")
                size += size_limits.check_json_size(
                    fact.arguments, f"{field}.arguments", size_limits.MAX_ARGUMENTS_CHARACTERS
                )
                size += _check_extra(fact.extra, field)
                asking = True
            case events.StateUpdated():
                values = merge_patch(values, fact.changes)
                size_limits.check_json_size(values, f"{field}.changes", size_limits.MAX_VALUES_CHARACTERS)
                size += size_limits.check_json_size(fact.changes, f"{field}.changes", size_limits.MAX_VALUES_CHARACTERS)
            case events.HistoryCompacted():
                kept = next((m for m in state.thread.window if m.version > fact.through), None)
                if asking or fact.through > state.version or (kept is not None and kept.role == "tool"):
                    raise InvalidInput(field, "history can be compacted up to a past version, while no call is open")
                size += size_limits.check_text_size(fact.summary, f"{field}.summary")
                speaker = None
            case _ if isinstance(fact, _NOT_CHECKED):
                continue
            case _:
                raise _not_recordable(fact, field)
    if size > size_limits.MAX_FACTS:
        raise InvalidInput(
            "facts", f"a node may record at most {size_limits.MAX_FACTS:,} bytes, not {size:,}; record less at once"
        )


def _not_recordable(fact: object, field: str) -> InvalidInput:
    if isinstance(fact, list | tuple):
        star = "write a star, as in [*turn.request(...), turn.say(...)]"
        return InvalidInput("events", f"an element is a list: {star}")
    if not isinstance(fact, events.Event):
        advice = size_limits.AWAIT if size_limits.is_not_awaited(fact) else "make an event, as in turn.say(text)"
        return InvalidInput("events", f"an element is a {type(fact).__name__}, which is no event: {advice}")
    return InvalidInput(field, f"a node cannot record a {type(fact).__name__}")


def _check_extra(extra: JsonObject, field: str) -> int:
    return size_limits.check_json_size(extra, f"{field}.extra", size_limits.MAX_OPAQUE) if extra else 0


def own_copy(fact: events.NodeEvent) -> events.NodeEvent:
    """Copy the mutable parts of an event, to which the node may still have references."""
    match fact:
        case events.StateUpdated():
            return replace(fact, changes=copied(fact.changes))
        case events.ToolRequested():
            return replace(fact, arguments=copied(fact.arguments), extra=copied(fact.extra))
        case events.MessageAppended() if fact.extra:
            return replace(fact, extra=copied(fact.extra))
        case _:
            return fact
