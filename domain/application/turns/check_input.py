"""Checks of what clients and models hand to agents, by the processes that have the agents."""

from collections.abc import Mapping

from domain.agents.agent import Agent
from domain.agents.error_text import error_text
from domain.agents.tools import Tool
from domain.application.turns.user_code import call_user_code
from domain.errors import InvalidArguments, InvalidInput
from domain.json import JsonObject, check_json
from domain.thread.commands import DecideApproval
from domain.thread.state import Running, State


def argument_error(tool: Tool, arguments: JsonObject) -> Exception | None:
    """Return why a tool cannot be called with these arguments; None if it can."""
    try:
        call_user_code(tool.check_arguments, arguments)
    except Exception as error:  # noqa: BLE001  (the check may be the user's code: whatever it raises, the call fails)
        return error
    return None


def check_decision(decision: DecideApproval, state: State, agents: Mapping[str, Agent]) -> None:
    """Check the arguments with which a person grants a call. Does nothing if this process does not have the tool.

    Raises:
        InvalidInput: they do not fit the tool; its field is a path such as `arguments.amount`.
    """
    if decision.arguments is None or not isinstance(state, Running) or state.thread.graph not in agents:
        return
    asked = (call for call in state.turn.calls if call.version == decision.approval and call.status == "asked")
    call = next(asked, None)
    tool = agents[state.thread.graph].by_name.get(call.request.name) if call else None
    if call is None or call.hash != decision.hash or tool is None:
        return
    check_json(decision.arguments, "arguments")
    error = argument_error(tool, decision.arguments)
    if isinstance(error, InvalidArguments):
        raise InvalidInput(f"arguments.{error.field}" if error.field else "arguments", error.why)
    if error is not None:
        raise InvalidInput("arguments", f"{tool.name} does not accept them: {error_text(error)}")
