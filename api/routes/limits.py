"""What a tenant may spend, altogether, by an agent or on a model."""

from collections.abc import Sequence

from litestar import get, put
from litestar.params import JSONBody
from litestar.status_codes import (
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
    HTTP_503_SERVICE_UNAVAILABLE,
)

from api.http.problems import problems
from api.routes.dependencies import FromReader, FromService, Limit
from api.schemas.limits import LimitsView, Setting, scope_of
from api.schemas.requests import SetLimits, limit_of

READING = problems(HTTP_503_SERVICE_UNAVAILABLE)
SETTING = problems(HTTP_413_REQUEST_ENTITY_TOO_LARGE, HTTP_415_UNSUPPORTED_MEDIA_TYPE, HTTP_503_SERVICE_UNAVAILABLE)


@put("/v1/limits", tags=["budgets"], responses=SETTING)
async def set_limits(data: JSONBody[SetLimits], service: FromService, reader: FromReader) -> LimitsView:
    """Limit what all agents may spend, or one agent, on all models or one, instead of what limited just that before."""
    scope = scope_of(reader.tenant, data.agent, data.model)
    return await service.limits.set(scope, tuple(map(limit_of, data.limits)), reader)


@get("/v1/limits", tags=["budgets"], responses=READING)
async def show_limits(service: FromService, reader: FromReader) -> LimitsView:
    """Say what may be spent, what was, what calls under way may take, and what is left."""
    return await service.limits.show(reader)


@get("/v1/limits/history", tags=["budgets"], responses=READING)
async def list_settings(service: FromService, reader: FromReader, limit: Limit = 100) -> Sequence[Setting]:
    """List what was set and lifted, when and by whom, the last first."""
    return await service.limits.history(reader, limit)
