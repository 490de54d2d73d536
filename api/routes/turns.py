"""Saying something to an agent."""

from dataclasses import replace
from typing import Annotated

from litestar import Response, post
from litestar.params import JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED

from api.bodies import Invoke, StartTurn
from api.callers import FromCaller, FromService, FromThread, IfMatch, etag
from api.preconditions import seen
from api.service import started_turn
from api.views import Accepted, TurnView
from domain.application.execute import Outcome, checkpoint_of
from domain.ids import ThreadId

Wait = Annotated[bool, QueryParameter(description="Answer with the finished turn.")]


@post("/v1/agent/invoke", status_code=HTTP_202_ACCEPTED, tags=["turns"])
async def invoke(
    data: JSONBody[Invoke], service: FromService, caller: FromCaller, if_match: IfMatch = None
) -> Response[Accepted]:
    """Say something; open the thread if there is none. The turn runs in the background."""
    caller = replace(caller, seen=seen(data.checkpoint_ref, if_match))
    thread_id = service.thread_id(data.thread_id, caller)
    outcome = await service.start_turn(thread_id, data.user_input, caller, open_with=data.graph)
    return _accepted(outcome)


@post("/v1/threads/{thread_id:str}/turns", status_code=HTTP_202_ACCEPTED, tags=["turns"])
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
    caller = replace(caller, seen=seen(data.checkpoint_ref, if_match))
    outcome = await service.start_turn(ThreadId(thread), data.user_input, caller)
    finished = await service.finished_turn(outcome) if wait else None
    if finished is None:
        return _accepted(outcome)
    return Response(finished, status_code=HTTP_200_OK, headers=etag(finished.checkpoint))


def _accepted(outcome: Outcome) -> Response[Accepted]:
    checkpoint = checkpoint_of(outcome.loaded)
    body = Accepted("processing", outcome.loaded.thread_id, checkpoint, started_turn(outcome))
    return Response(body, status_code=HTTP_202_ACCEPTED, headers=etag(checkpoint))
