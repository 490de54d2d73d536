"""Checks of the events that a node records."""

from msgspec.structs import replace

from domain.errors import InvalidInput
from domain.json import JsonObject, check_fields, copied, merge_patch
from domain.thread.events import (
    BudgetThresholdReached,
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelAnswered,
    ModelCalled,
    NodeEvent,
    StateUpdated,
    ToolRequested,
)
from domain.thread.size_limits import (
    MAX_ARGUMENTS_CHARACTERS,
    MAX_FACTS,
    MAX_OPAQUE,
    MAX_VALUES_CHARACTERS,
    check_json_size,
    check_text_size,
)
from domain.thread.state import Running


def check_node_events(facts: tuple[NodeEvent, ...], state: Running) -> None:
    """Check that a prompt can be made of the thread's state after a node's events, and that they are not too large.

    Raises:
        InvalidInput: its field names the event, as `facts.0`.
    """
    speaker = state.thread.window[-1].role if state.thread.window else None
    asking, values, size = bool(state.turn.calls), state.thread.values, 0
    for index, fact in enumerate(facts):
        field = f"facts.{index}"
        if isinstance(fact, Event):
            check_fields(fact, f"{field}.")
        match fact:
            case MessageAppended():
                if fact.role != "assistant" or asking:
                    raise InvalidInput(field, "a node's message must have the role assistant, and no call may be open")
                size += check_text_size(fact.content, f"{field}.content")
                size += _check_extra(fact.extra, field)
                speaker = fact.role
            case ToolRequested():
                if speaker != "assistant":
                    raise InvalidInput(field, "a tool request must follow a message of the assistant")
                size += check_json_size(fact.arguments, f"{field}.arguments", MAX_ARGUMENTS_CHARACTERS)
                size += _check_extra(fact.extra, field)
                asking = True
            case StateUpdated():
                values = merge_patch(values, fact.changes)
                check_json_size(values, f"{field}.changes", MAX_VALUES_CHARACTERS)
                size += check_json_size(fact.changes, f"{field}.changes", MAX_VALUES_CHARACTERS)
            case HistoryCompacted():
                kept = next((m for m in state.thread.window if m.version > fact.through), None)
                if asking or fact.through > state.version or (kept is not None and kept.role == "tool"):
                    raise InvalidInput(field, "history can be compacted up to a past version, while no call is open")
                size += check_text_size(fact.summary, f"{field}.summary")
                speaker = None
            case ContextAssembled() | ModelCalled() | ModelAnswered() | BudgetThresholdReached():
                continue
            case _:
                raise InvalidInput(field, f"a node cannot record a {type(fact).__name__}")
    if size > MAX_FACTS:
        raise InvalidInput("facts", f"a node may record at most {MAX_FACTS:,} bytes, not {size:,}; record less at once")


def _check_extra(extra: JsonObject, field: str) -> int:
    return check_json_size(extra, f"{field}.extra", MAX_OPAQUE) if extra else 0


def own_copy(fact: NodeEvent) -> NodeEvent:
    """Copy the mutable parts of an event, to which the node may still have references."""
    match fact:
        case StateUpdated():
            return replace(fact, changes=copied(fact.changes))
        case ToolRequested():
            return replace(fact, arguments=copied(fact.arguments), extra=copied(fact.extra))
        case MessageAppended() if fact.extra:
            return replace(fact, extra=copied(fact.extra))
        case _:
            return fact
