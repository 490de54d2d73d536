"""Checks of what clients and models hand to agents, by the processes that have the agents."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from domain.agents.agent import Agent
from domain.agents.error_text import error_text
from domain.agents.registry import Agents
from domain.agents.requested_output import final_output
from domain.agents.tools import Tool
from domain.agents.values import ValuesModel, filled_values, typed_values
from domain.application.turns.user_code import call_user_code
from domain.errors import InvalidArguments, InvalidInput
from domain.json import JsonObject, check_json, merge_patch
from domain.models.chat import AnswerInvalid
from domain.thread.codec import to_json
from domain.thread.commands import DecideApproval
from domain.thread.events import NodeEvent, StateUpdated
from domain.thread.evolve import fold
from domain.thread.state import Running, State, Unopened

T = TypeVar("T")


def argument_error(tool: Tool, arguments: JsonObject) -> Exception | None:
    """Return why a tool cannot be called with these arguments; None if it can."""
    try:
        call_user_code(tool.check_arguments, arguments)
    except Exception as error:  # noqa: BLE001  (the check may be the user's code: whatever it raises, the call fails)
        return error
    return None


def opening_values(agent: Agent, values: JsonObject) -> JsonObject:
    """Return the values that a thread of an agent opens with: checked, and with the defaults of the graph's model.

    Raises:
        InvalidInput: they do not fit the model; its field is a path such as `values.order_id`.
    """
    model = agent.graph.values
    if model is None:
        return values
    check_json(values, "values")
    return _of_model(lambda: filled_values(model, values))


def check_change(changes: JsonObject, state: State, agents: Agents, *, ends_turn: bool = False) -> None:
    """Check a thread's values after a merge patch. Does nothing if this process does not have the thread's agent.

    A turn in progress reads the values with the version of the agent that it began with, so they must fit the model of
    that version; between turns, and if the change `ends_turn`, that of the current version, which takes the next turn.

    Raises:
        InvalidInput: they do not fit the graph's model; its field is a path such as `values.order_id`.
    """
    if isinstance(state, Unopened):
        return
    current = agents.get(state.thread.graph)
    agent = agents.running(state) if isinstance(state, Running) and not ends_turn else current
    if agent is None or agent.graph.values is None:
        return
    model = agent.graph.values
    check_json(changes, "values")
    merged = merge_patch(state.thread.values, changes)
    if to_json(merged) != to_json(state.thread.values):
        _of_model(lambda: typed_values(model, merged))


def check_values_after(model: ValuesModel, state: Running, facts: Sequence[NodeEvent]) -> None:
    """Check the thread's values after a node's events. Raises `InvalidInput`, as `check_change` does."""
    values = state.thread.values
    changes = [fact.changes for fact in facts if isinstance(fact, StateUpdated)]
    if not changes:
        return
    for change in changes:
        values = merge_patch(values, change)
    typed_values(model, values)


def check_final_answer(state: State, facts: Sequence[NodeEvent]) -> None:
    """Check the answer of a turn that ends with a node's events, if a client has requested an output.

    What `generate` returns fits already; a node may also write messages itself.

    Raises:
        AnswerInvalid: the answer does not fit.
    """
    if not isinstance(state, Running) or state.turn.output is None:
        return
    after = fold(state, facts)
    if not isinstance(after, Running):
        return
    thread, begun, name = after.thread, state.turn.started, state.turn.output.name
    said = (m for m in reversed(thread.window) if m.role == "assistant" and m.version > begun and m.content is not None)
    answer = next(said, None)
    if answer is not None and answer.content is not None:
        final_output(str, state.turn.output).check_message(answer.content)
    elif thread.summary is None or thread.summary.through <= begun:  # otherwise the answer is in the summary
        raise AnswerInvalid(f"The client wants an answer that fits {name}, and the turn ends without any.")


def _of_model(check: Callable[[], T]) -> T:
    """Run a check of a model. What a validator of the author's raises becomes `InvalidInput`."""
    try:
        return call_user_code(check)
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput("values", f"the model cannot check them: {error_text(error)}") from error


def check_decision(decision: DecideApproval, state: State, agents: Agents) -> None:
    """Check the arguments with which a person grants a call. Does nothing if this process does not have the tool.

    Raises:
        InvalidInput: they do not fit the tool; its field is a path such as `arguments.amount`.
    """
    agent = agents.running(state) if isinstance(state, Running) else None
    if decision.arguments is None or not isinstance(state, Running) or agent is None:
        return
    asked = (call for call in state.turn.calls if call.version == decision.approval and call.status == "asked")
    call = next(asked, None)
    tool = agent.by_name.get(call.request.name) if call else None
    if call is None or call.hash != decision.hash or tool is None:
        return
    check_json(decision.arguments, "arguments")
    error = argument_error(tool, decision.arguments)
    if isinstance(error, InvalidArguments):
        raise InvalidInput(f"arguments.{error.field}" if error.field else "arguments", error.why)
    if error is not None:
        raise InvalidInput("arguments", f"{tool.name} does not accept them: {error_text(error)}")
