"""`threadfold keys`."""

from datetime import UTC, datetime, timedelta

import click

from api.cli.bootstrap import answer, here, operator
from api.cli.options import limited, named_as_options
from api.cli.output import as_json, echo, moment, show_table
from api.schemas.identity import MAX_NAME_CHARACTERS, CreatedKey, CreateKey, KeyView
from api.schemas.page import Page
from domain.identity.scopes import DEFAULT_SCOPES, SCOPES
from domain.ids import DEFAULT_TENANT

ALL = "all"

tenant_option = click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="The tenant of the key.")


@click.group()
def keys() -> None:
    """Manage API keys. As soon as there is one, the server refuses requests without a key."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([*SCOPES, ALL]),
    multiple=True,
    default=DEFAULT_SCOPES,
    help=(
        f"What it may do; can be given several times. {ALL}: everything but actor:impersonate.  "
        f"[default: {' '.join(DEFAULT_SCOPES)}]"
    ),
)
@click.option("--principal", help="The name under which its requests are recorded.  [default: NAME]")
@tenant_option
@click.option("--days", type=click.IntRange(1, 3_650), help="Days until it expires.  [default: it does not]")
@as_json
def create(
    *, name: str, scopes: tuple[str, ...], principal: str | None, tenant: str, days: int | None, as_json: bool
) -> None:
    """Make a key. It is shown this once."""
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        raise click.BadParameter(f"must be 1 to {MAX_NAME_CHARACTERS} printable characters", param_hint="NAME")
    given = [scope for scope in SCOPES if scope != "actor:impersonate"] if ALL in scopes else list(scopes)
    ends = datetime.now(UTC) + timedelta(days=days) if days else None
    asked = CreateKey.model_validate(
        {"name": name, "scopes": given, "principal": principal, "tenant": tenant, "expires_at": ends}
    )
    with named_as_options():
        answer(lambda service: service.identity.create_key(asked, operator(), here()), _created, as_json=as_json)


@keys.command("list")
@tenant_option
@limited
@as_json
def list_keys(*, tenant: str, limit: int, as_json: bool) -> None:
    """List a tenant's keys."""
    with named_as_options():
        answer(lambda service: service.identity.keys(tenant, operator(), None, limit), _listed, as_json=as_json)


@keys.command()
@click.argument("key_id")
@click.option(
    "--overlap-seconds",
    type=click.IntRange(0),
    default=86_400,
    show_default=True,
    help="How long the old key stays valid.",
)
@as_json
def rotate(*, key_id: str, overlap_seconds: int, as_json: bool) -> None:
    """Make a successor of a key. It is shown this once; the old key stays valid for the overlap."""
    with named_as_options():
        answer(
            lambda service: service.identity.rotate_key(key_id, overlap_seconds, operator(), here()),
            _created,
            as_json=as_json,
        )


@keys.command()
@click.argument("key_id")
@as_json
def revoke(*, key_id: str, as_json: bool) -> None:
    """Revoke a key. Every process refuses it within a second."""
    answer(
        lambda service: service.identity.revoke_key(key_id, operator(), here()),
        lambda key: echo(f"Key {key.id} ({key.name}) is revoked."),
        as_json=as_json,
    )


def _created(made: CreatedKey) -> None:
    """Print the key alone to stdout, so that a shell can take it."""
    echo(made.token)
    key = made.key
    echo(f"Key {key.id} of tenant {key.tenant}: {' '.join(key.scopes)}. It is not shown again.", err=True)


def _listed(page: Page[KeyView]) -> None:
    headings = ["ID", "NAME", "PRINCIPAL", "STATUS", "EXPIRES (UTC)", "LAST USED (UTC)", "SCOPES"]
    show_table(headings, map(_row, page.items), empty="There are no keys.")


def _row(key: KeyView) -> list[str]:
    ends, used = (moment(at) if at else "" for at in (key.expires_at, key.last_used_at))
    return [key.id, key.name, key.principal, key.status, ends, used, " ".join(key.scopes)]
