"""Routes of a thread's budget."""

from litestar import Response, get, put
from litestar.params import JSONBody

from api.http.authentication import needs
from api.http.problems import THREAD_READ_PROBLEMS, UPDATE_PROBLEMS
from api.routes.dependencies import FromCaller, FromReader, FromService, FromThread, IfMatch, expecting, tagged
from api.routes.history import AtTime, AtVersion
from api.schemas.budget import BudgetView
from api.schemas.requests import SetBudget, limit_of
from api.services.history import PointInTime


@put("/v1/threads/{thread_id:str}/budget", tags=["budgets"], responses=UPDATE_PROBLEMS, opt=needs("limits:write"))
async def set_budget(
    thread: FromThread, data: JSONBody[SetBudget], service: FromService, caller: FromCaller, if_match: IfMatch = None
) -> Response[BudgetView]:
    """Replace the thread's limits. What it has spent before counts."""
    caller = expecting(caller, data.checkpoint_ref, if_match)
    return tagged(await service.set_budget(thread, tuple(map(limit_of, data.limits)), caller))


@get(
    "/v1/threads/{thread_id:str}/budget",
    tags=["budgets", "point in time"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("threads:read"),
)
async def show_budget(
    thread: FromThread, service: FromService, reader: FromReader, at_version: AtVersion = None, at_time: AtTime = None
) -> Response[BudgetView]:
    """Show the thread's limits, what is spent and what is left: now, at a version, or at an instant."""
    return tagged(await service.budget(thread, reader, PointInTime(at_version, at_time)))
