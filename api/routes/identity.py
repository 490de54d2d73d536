"""Routes of API keys, tenants and the caller."""

from http import HTTPStatus
from typing import Annotated

from litestar import get, post
from litestar.params import FromQuery, JSONBody, PathParameter

from api.http.authentication import for_any_principal, needs
from api.http.problems import READ_PROBLEMS, AnyRequest, problems
from api.routes.dependencies import Cursor, FromPrincipal, FromReader, FromService, Limit
from api.schemas.identity import CreatedKey, CreateKey, CreateTenant, KeyView, Me, RotateKey, TenantView
from api.schemas.page import Page

KeyPath = Annotated[str, PathParameter(description="The key's id: the part after tf_live_.")]
TenantPath = Annotated[str, PathParameter(description="The tenant's name.")]

ONE = problems(HTTPStatus.NOT_FOUND)
CREATED = problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, body=True)


@get("/v1/me", tags=["identity"], responses=READ_PROBLEMS, opt=for_any_principal())
async def show_me(verified: FromPrincipal, request: AnyRequest) -> Me:
    """Show the caller's tenant, name and scopes."""
    required = request.app.state.authenticator.required
    return Me(
        verified.tenant,
        verified.name,
        list(verified.scopes),
        verified.key_id,
        verified.key_name,
        verified.expires_at,
        "required" if required else "open",
    )


@post("/v1/keys", tags=["identity"], responses=CREATED, opt=needs("admin"))
async def create_key(
    data: JSONBody[CreateKey], service: FromService, verified: FromPrincipal, reader: FromReader
) -> CreatedKey:
    """Make an API key. Its text is shown this once."""
    return await service.identity.create_key(data, verified, reader)


@get("/v1/keys", tags=["identity"], responses=READ_PROBLEMS, opt=needs("admin"))
async def list_keys(
    service: FromService,
    verified: FromPrincipal,
    tenant: FromQuery[str | None] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[KeyView]:
    """List the keys of the caller's tenant; with operate, those of another one."""
    return await service.identity.keys(tenant, verified, cursor, limit)


@post(
    "/v1/keys/{key_id:str}/rotate",
    status_code=HTTPStatus.CREATED,
    tags=["identity"],
    responses=CREATED,
    opt=needs("admin"),
)
async def rotate_key(
    key_id: KeyPath,
    data: JSONBody[RotateKey],
    service: FromService,
    verified: FromPrincipal,
    reader: FromReader,
) -> CreatedKey:
    """Make a successor with the same name and scopes. The old key stays valid for the overlap."""
    return await service.identity.rotate_key(key_id, data.overlap_seconds, verified, reader)


@post("/v1/keys/{key_id:str}/revoke", status_code=HTTPStatus.OK, tags=["identity"], responses=ONE, opt=needs("admin"))
async def revoke_key(key_id: KeyPath, service: FromService, verified: FromPrincipal, reader: FromReader) -> KeyView:
    """Revoke a key. Every process refuses it within a second, and closes its streams."""
    return await service.identity.revoke_key(key_id, verified, reader)


@post("/v1/tenants", tags=["identity"], responses=CREATED, opt=needs("operate"))
async def create_tenant(
    data: JSONBody[CreateTenant], service: FromService, verified: FromPrincipal, reader: FromReader
) -> TenantView:
    """Make a tenant. Keys for it can be made then."""
    return await service.identity.create_tenant(data.name, verified, reader)


@get("/v1/tenants", tags=["identity"], responses=READ_PROBLEMS, opt=needs("operate"))
async def list_tenants(service: FromService, cursor: Cursor = None, limit: Limit = 100) -> Page[TenantView]:
    """List the tenants by name."""
    return await service.identity.tenants(cursor, limit)


@post(
    "/v1/tenants/{tenant:str}/suspend",
    status_code=HTTPStatus.OK,
    tags=["identity"],
    responses=ONE,
    opt=needs("operate"),
)
async def suspend_tenant(
    tenant: TenantPath, service: FromService, verified: FromPrincipal, reader: FromReader
) -> TenantView:
    """Refuse all keys and tokens of a tenant. Its running turns end; nothing is lost."""
    return await service.identity.suspend_tenant(tenant, verified, reader)


@post(
    "/v1/tenants/{tenant:str}/resume", status_code=HTTPStatus.OK, tags=["identity"], responses=ONE, opt=needs("operate")
)
async def resume_tenant(tenant: TenantPath, service: FromService, reader: FromReader) -> TenantView:
    """Let a suspended tenant go on."""
    return await service.identity.resume_tenant(tenant, reader)
