"""Saying something to an agent."""

from typing import Annotated

from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, QueryParameter
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_202_ACCEPTED,
    HTTP_404_NOT_FOUND,
    HTTP_409_CONFLICT,
    HTTP_412_PRECONDITION_FAILED,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
    HTTP_422_UNPROCESSABLE_ENTITY,
    HTTP_503_SERVICE_UNAVAILABLE,
)

from api.bodies import DEFAULT_GRAPH, Invoke, StartTurn
from api.callers import FromCaller, FromService, FromThread, IfMatch, etag, expecting
from api.problems import problems
from api.service import started_turn
from api.views import Accepted, TurnView
from domain.application.execute import Outcome, checkpoint_of
from domain.ids import ThreadId

Wait = Annotated[bool, QueryParameter(description="Answer with the finished turn.")]

TAKEN = ResponseSpec(Accepted, generate_examples=False, description="The turn runs in the background.")
FINISHED = ResponseSpec(TurnView, generate_examples=False, description="The turn that was waited for has ended.")
REFUSED = problems(
    HTTP_409_CONFLICT,
    HTTP_412_PRECONDITION_FAILED,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
    HTTP_422_UNPROCESSABLE_ENTITY,
    HTTP_503_SERVICE_UNAVAILABLE,
)
ANSWERS = {HTTP_200_OK: FINISHED, HTTP_202_ACCEPTED: TAKEN, **REFUSED, **problems(HTTP_404_NOT_FOUND)}


@post("/v1/agent/invoke", status_code=HTTP_202_ACCEPTED, tags=["turns"], responses=REFUSED)
async def invoke(
    data: JSONBody[Invoke], service: FromService, caller: FromCaller, if_match: IfMatch = None
) -> Response[Accepted]:
    """Say something; open the thread if there is none. The turn runs in the background."""
    caller = expecting(caller, data.checkpoint_ref, if_match)
    thread_id = service.thread_id(data.thread_id, caller)
    outcome = await service.start_turn(
        thread_id, data.user_input, caller, open_with=data.graph or DEFAULT_GRAPH, graph=data.graph
    )
    return _accepted(outcome)


@post("/v1/threads/{thread_id:str}/turns", status_code=HTTP_202_ACCEPTED, tags=["turns"], responses=ANSWERS)
async def start_turn(
    thread: FromThread,
    data: JSONBody[StartTurn],
    service: FromService,
    caller: FromCaller,
    if_match: IfMatch = None,
    *,
    wait: Wait = False,
) -> Response[Accepted] | Response[TurnView]:
    """Say something in an open thread."""
    caller = expecting(caller, data.checkpoint_ref, if_match)
    outcome = await service.start_turn(ThreadId(thread), data.user_input, caller)
    finished = await service.finished_turn(outcome) if wait else None
    if finished is None:
        return _accepted(outcome)
    return Response(finished, status_code=HTTP_200_OK, headers=etag(finished.checkpoint))


def _accepted(outcome: Outcome) -> Response[Accepted]:
    checkpoint = checkpoint_of(outcome.loaded)
    body = Accepted("processing", outcome.loaded.thread_id, checkpoint, started_turn(outcome))
    return Response(body, status_code=HTTP_202_ACCEPTED, headers=etag(checkpoint))
