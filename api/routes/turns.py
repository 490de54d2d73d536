"""Routes for sending messages, and for retrying and cancelling turns."""

from http import HTTPStatus
from typing import Annotated, Literal

from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, QueryParameter

from api.http.authentication import needs
from api.http.caller import Caller
from api.http.problems import problems
from api.routes.dependencies import FromCaller, FromService, FromThread, FromTurn, IfMatch, expecting, tagged
from api.schemas.approvals import waiting_approvals
from api.schemas.requests import DEFAULT_GRAPH, Invoke, StartTurn, limit_of, output_of
from api.schemas.turns import Accepted, Cancelling, TurnView
from api.services.threads import Opening, Service, StartedTurn
from domain.application.command_handler import checkpoint_of
from domain.application.thread_repository import LoadedThread
from domain.errors import BudgetExhausted
from domain.ids import TurnId
from domain.thread.questions import question_for_customer
from domain.thread.state import Idle, Running

Wait = Annotated[
    bool, QueryParameter(description="Answer when the turn has ended, or when the thread waits for a person.")
]

TAKEN = ResponseSpec(
    Accepted, generate_examples=False, description="The turn runs in the background, is queued, or waits for a person."
)
FINISHED = ResponseSpec(TurnView, generate_examples=False, description="The turn has ended.")
REFUSED = problems(HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.UNPROCESSABLE_ENTITY, body=True)
CANCELLED = {
    HTTPStatus.OK: FINISHED,
    HTTPStatus.ACCEPTED: ResponseSpec(Cancelling, generate_examples=False, description="The turn has ended, or will."),
    **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
}
ANSWERS = {
    HTTPStatus.OK: FINISHED,
    HTTPStatus.ACCEPTED: TAKEN,
    **REFUSED,
    **problems(HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.NOT_FOUND),
}


@post(
    "/v1/agent/invoke", status_code=HTTPStatus.ACCEPTED, tags=["turns"], responses=REFUSED, opt=needs("threads:write")
)
async def invoke(
    data: JSONBody[Invoke], service: FromService, caller: FromCaller, if_match: IfMatch = None
) -> Response[Accepted]:
    """Send a message, and open the thread if it is new. The turn runs in the background."""
    caller = expecting(caller, data.checkpoint_ref, if_match)
    thread_id = service.thread_id(data.thread_id, caller)
    started = await service.start_turn(
        thread_id,
        data.user_input,
        caller,
        open_with=data.graph or DEFAULT_GRAPH,
        opening=Opening(data.values, data.subject, None if data.limits is None else tuple(map(limit_of, data.limits))),
        graph=data.graph,
        strategy=data.strategy,
        durability=data.durability,
        output=output_of(data.output),
    )
    return _accepted(started.outcome.loaded, started.turn_id)


@post(
    "/v1/threads/{thread_id:str}/turns",
    status_code=HTTPStatus.ACCEPTED,
    tags=["turns"],
    responses=ANSWERS,
    opt=needs("threads:write"),
)
async def start_turn(
    thread: FromThread,
    data: JSONBody[StartTurn],
    service: FromService,
    caller: FromCaller,
    if_match: IfMatch = None,
    *,
    wait: Wait = False,
) -> Response[Accepted] | Response[TurnView]:
    """Send a message in an open thread."""
    caller = expecting(caller, data.checkpoint_ref, if_match)
    started = await service.start_turn(
        thread,
        data.user_input,
        caller,
        strategy=data.strategy,
        durability=data.durability,
        output=output_of(data.output),
    )
    return await answer(service, started, caller, wait=wait)


@post(
    "/v1/threads/{thread_id:str}/turns/{turn_id:str}/retry",
    status_code=HTTPStatus.ACCEPTED,
    tags=["turns"],
    responses=ANSWERS,
    opt=needs("threads:write"),
)
async def retry_turn(
    thread: FromThread, turn: FromTurn, service: FromService, caller: FromCaller, *, wait: Wait = False
) -> Response[Accepted] | Response[TurnView]:
    """Retry the last turn if it failed or was cancelled: a new turn begins at the node where it ended."""
    started = await service.retry_turn(thread, turn, caller)
    return await answer(service, started, caller, wait=wait)


@post(
    "/v1/threads/{thread_id:str}/turns/{turn_id:str}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    tags=["turns"],
    responses=CANCELLED,
    opt=needs("threads:write"),
)
async def cancel_turn(
    thread: FromThread, turn: FromTurn, service: FromService, caller: FromCaller, *, wait: Wait = False
) -> Response[Cancelling] | Response[TurnView]:
    """Cancel a turn that runs, waits for a person, or is queued. Its messages so far are kept."""
    outcome = await service.cancel_turn(thread, turn, caller)
    finished = await service.turn_end(outcome, turn) if wait else None
    if finished is not None:
        return tagged(finished, HTTPStatus.OK)
    loaded, ended = outcome.loaded, isinstance(outcome.loaded.state, Idle)
    body = Cancelling("cancelled" if ended else "cancelling", loaded.thread_id, turn, checkpoint_of(loaded))
    return tagged(body, HTTPStatus.ACCEPTED)


async def answer(
    service: Service, started: StartedTurn, caller: Caller, *, wait: bool
) -> Response[Accepted] | Response[TurnView]:
    """Answer a request that starts or continues a turn. Raises `BudgetExhausted` if that ended the turn."""
    if not wait:
        return _accepted(started.outcome.loaded, started.turn_id)
    finished = await service.turn_end(started.outcome, started.turn_id)
    if finished is None:
        loaded = await service.existing(started.outcome.loaded.thread_id, caller)
        return _accepted(loaded, started.turn_id, waited=True)
    if finished.reason == "budget_exhausted":
        raise BudgetExhausted(f"{finished.detail} To continue, retry the turn {started.turn_id}.")
    return tagged(finished, HTTPStatus.OK)


def _accepted(loaded: LoadedThread, turn_id: TurnId, *, waited: bool = False) -> Response[Accepted]:
    state = loaded.state
    status: Literal["processing", "enqueued", "waiting"] = "processing"
    if isinstance(state, Running):
        own = state.turn.turn_id == turn_id
        status = "enqueued" if not own else "waiting" if waited and state.waiting else "processing"
    approvals = waiting_approvals(state) if waited else ()
    asked = question_for_customer(state) if waited and isinstance(state, Running) else None
    body = Accepted(status, loaded.thread_id, checkpoint_of(loaded), turn_id, approvals, asked.text if asked else None)
    return tagged(body, HTTPStatus.ACCEPTED)
