"""Routes for what people decide about a thread: approvals and forks."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Literal

from litestar import Response, get, post
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, PathParameter

from api.http.authentication import needs
from api.http.params import number_of
from api.http.problems import THREAD_READ_PROBLEMS, problems
from api.routes.dependencies import FromCaller, FromReader, FromService, FromThread, tagged
from api.routes.turns import TAKEN, Wait, answer
from api.schemas.approvals import ApprovalView, Decided
from api.schemas.page import Page
from api.schemas.requests import Decide, ForkThread
from api.schemas.state import Forked
from api.schemas.turns import Accepted, TurnView
from domain.application.command_handler import checkpoint_of
from domain.errors import InvalidInput
from projections.engine.thread_status import status_of

ApprovalPath = Annotated[str, PathParameter(description="The approval's id, from the list of approvals.")]

DONE: Mapping[str, Literal["granted", "denied", "settled", "answered"]] = {
    "grant": "granted",
    "deny": "denied",
    "settle": "settled",
    "answer": "answered",
}

CHANGING = problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, body=True)
DECIDED = {
    HTTPStatus.OK: ResponseSpec(
        Decided | TurnView,
        generate_examples=False,
        description="The decision was recorded; with wait=true, the turn has ended.",
    ),
    HTTPStatus.ACCEPTED: TAKEN,
    **CHANGING,
    **problems(HTTPStatus.PAYMENT_REQUIRED),
}


@get(
    "/v1/threads/{thread_id:str}/approvals", tags=["people"], responses=THREAD_READ_PROBLEMS, opt=needs("threads:read")
)
async def list_approvals(thread: FromThread, service: FromService, reader: FromReader) -> Page[ApprovalView]:
    """List the tool calls or the node that wait for a person's approval in a thread, and the questions to a person."""
    return Page(await service.history.approvals(thread, reader), None)


@post(
    "/v1/threads/{thread_id:str}/approvals/{approval_id:str}",
    status_code=HTTPStatus.OK,
    tags=["people"],
    responses=DECIDED,
    opt=needs("approvals:decide"),
)
async def decide_approval(
    thread: FromThread,
    approval_id: ApprovalPath,
    data: JSONBody[Decide],
    service: FromService,
    caller: FromCaller,
    *,
    wait: Wait = False,
) -> Response[Decided] | Response[Accepted] | Response[TurnView]:
    """Grant (with other arguments, if given), deny, settle, or answer. The turn continues in the background."""
    for name, belongs_to in (("arguments", "grant"), ("reason", "deny"), ("result", "settle")):
        if getattr(data, name) is not None and data.decision != belongs_to:
            raise InvalidInput(name, f"can only be given with {belongs_to}")
    if data.decision == "settle" and data.result is None:
        raise InvalidInput("result", "is required: the result of the call, for the model")
    if (data.decision == "answer") != ("answer" in data.model_fields_set):
        raise InvalidInput("answer", "is required with answer, and can only be given with it")
    approval = number_of(approval_id, "approval_id", lowest=0, why="must be an id from the list of approvals")
    outcome = await service.decide_approval(thread, approval, data, caller)
    if wait:
        return await answer(service, await service.decided_turn(outcome, approval), caller, wait=True)
    return tagged(Decided(thread, approval, DONE[data.decision], checkpoint_of(outcome.loaded)))


@post(
    "/v1/threads/{thread_id:str}/fork",
    status_code=HTTPStatus.CREATED,
    tags=["people"],
    responses=CHANGING,
    opt=needs("threads:write"),
)
async def fork_thread(
    thread: FromThread, data: JSONBody[ForkThread], service: FromService, caller: FromCaller
) -> Response[Forked]:
    """Fork this thread at a version. The fork refers to the shared events; nothing is copied."""
    fork_id = service.thread_id(data.thread_id, caller)
    forked = await service.fork(thread, fork_id, data, caller)
    loaded = forked.outcome.loaded
    body = Forked(fork_id, thread, forked.at_version, status_of(loaded.state), checkpoint_of(loaded))
    return tagged(body, Location=f"/v1/threads/{fork_id}")
