"""`threadfold tenants`."""

import click

from api.cli.bootstrap import answer, here, operator
from api.cli.options import limited
from api.cli.output import as_json, echo, moment, show_table
from api.schemas.identity import TenantView
from api.schemas.page import Page


@click.group()
def tenants() -> None:
    """Manage tenants: they share the instance, and see nothing of each other."""


@tenants.command()
@click.argument("name")
@as_json
def create(*, name: str, as_json: bool) -> None:
    """Make a tenant."""
    answer(lambda service: service.identity.create_tenant(name, operator(), here()), _shown, as_json=as_json)


@tenants.command("list")
@limited
@as_json
def list_tenants(*, limit: int, as_json: bool) -> None:
    """List the tenants."""
    answer(lambda service: service.identity.tenants(None, limit), _listed, as_json=as_json)


@tenants.command()
@click.argument("name")
@as_json
def suspend(*, name: str, as_json: bool) -> None:
    """Refuse all keys and tokens of a tenant, within a second."""
    answer(lambda service: service.identity.suspend_tenant(name, operator(), here()), _shown, as_json=as_json)


@tenants.command()
@click.argument("name")
@as_json
def resume(*, name: str, as_json: bool) -> None:
    """Let a suspended tenant go on."""
    answer(lambda service: service.identity.resume_tenant(name, here()), _shown, as_json=as_json)


def _shown(tenant: TenantView) -> None:
    echo(f"Tenant {tenant.name}: {_state(tenant)}.")


def _listed(page: Page[TenantView]) -> None:
    show_table(["NAME", "CREATED (UTC)", "STATE"], ([t.name, moment(t.created_at), _state(t)] for t in page.items))


def _state(tenant: TenantView) -> str:
    return f"suspended since {moment(tenant.suspended_at)}" if tenant.suspended_at else "active"
