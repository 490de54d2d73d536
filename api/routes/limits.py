"""Routes of a tenant's limits: of all its calls, of an agent, of a model, or about a subject."""

from collections.abc import Sequence
from typing import Annotated

from litestar import get, put
from litestar.params import JSONBody, QueryParameter

from api.http.authentication import needs
from api.http.problems import READ_PROBLEMS, problems
from api.routes.dependencies import FromReader, FromService, Limit
from api.schemas.limits import LimitsView, Setting, scope_of
from api.schemas.requests import SetLimits, limit_of

OfSubject = Annotated[str | None, QueryParameter(description="Only limits of this subject.")]


@put("/v1/limits", tags=["budgets"], responses=problems(body=True), opt=needs("limits:write"))
async def set_limits(data: JSONBody[SetLimits], service: FromService, reader: FromReader) -> LimitsView:
    """Replace the limits of all calls, or of one agent, of one model, about one subject: of those that fit all."""
    scope = scope_of(reader.tenant, data.subject, data.agent, data.model)
    return await service.limits.set(scope, tuple(map(limit_of, data.limits)), reader)


@get("/v1/limits", tags=["budgets"], responses=READ_PROBLEMS, opt=needs("threads:read"))
async def show_limits(service: FromService, reader: FromReader, subject: OfSubject = None) -> LimitsView:
    """Show all limits: what is spent, what is reserved for calls in flight, and what is left."""
    return await service.limits.show(reader, subject)


@get("/v1/limits/history", tags=["budgets"], responses=READ_PROBLEMS, opt=needs("threads:read"))
async def list_settings(
    service: FromService, reader: FromReader, limit: Limit = 100, subject: OfSubject = None
) -> Sequence[Setting]:
    """List what was set and lifted, when and by whom, newest first."""
    return await service.limits.history(reader, limit, subject)
