"""`threadfold audit`: list, reads."""

from datetime import datetime
from typing import get_args
from uuid import UUID

import click

from api.cli.bootstrap import answer
from api.cli.options import instant_option, limited, named_as_options
from api.cli.output import as_json, moment, show_page
from api.http.params import range_of
from api.schemas.access_log import AccessView
from api.schemas.page import Page
from api.schemas.read_models import AuditEntry
from api.services.threads import Service
from domain.ids import DEFAULT_TENANT, ThreadId
from domain.ports.access_log import AccessFilter, What
from domain.read_models.queries import Where

NOTHING = "Nothing matches."

of_thread = click.option("--thread", type=click.UUID, help="Only of this thread.")
of_actor = click.option("--actor", help="Only what this actor did.")
onward = click.option("--cursor", help="Continue after the page that gave this cursor.")


@click.group()
def audit() -> None:
    """List commands and accesses by actor. Times are in UTC."""


@audit.command("list")
@of_thread
@of_actor
@click.option("--command", type=click.UUID, help="Only the results of this command.")
@click.option("--correlation", help="Only what was sent with this X-Correlation-ID.")
@limited
@onward
@as_json
def list_audit(
    *,
    thread: ThreadId | None,
    actor: str | None,
    command: UUID | None,
    correlation: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List what each actor did to which thread, and what the agent did in response, the latest first."""
    asked = {"thread_id": thread, "actor": actor, "command": command, "correlation": correlation}
    where = [Where(name, "=", value) for name, value in asked.items() if value is not None]

    async def listing(service: Service) -> Page[AuditEntry]:
        await service.runtime.catch_up()
        with named_as_options():
            return await service.reading.audit(DEFAULT_TENANT, where, cursor, limit)

    headings = ["AT (UTC)", "THREAD", "ACTOR", "CLIENT", "BY", "WHAT"]
    answer(listing, lambda page: show_page(page, headings, _entry, empty=NOTHING), as_json=as_json)


@audit.command()
@of_thread
@of_actor
@click.option("--what", type=click.Choice(get_args(What)), help="Only accesses of this kind.")
@instant_option("--from", "since", help="The instant to begin with, such as 2026-11-23T10:00:00Z.")
@instant_option("--to", "until", help="The instant to end before.")
@limited
@onward
@as_json
def reads(
    *,
    thread: ThreadId | None,
    actor: str | None,
    what: What | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List which actor was shown what of which threads, the latest first. An export of the log names no threads."""

    async def listing(service: Service) -> Page[AccessView]:
        with named_as_options():
            only = AccessFilter(thread, actor, what, *range_of(since, until))
            return await service.access_log.page(DEFAULT_TENANT, only, cursor, limit)

    headings = ["AT (UTC)", "ACTOR", "CLIENT", "WHAT", "THREADS", "REQUEST"]
    answer(listing, lambda page: show_page(page, headings, _access, empty=NOTHING), as_json=as_json)


def _entry(entry: AuditEntry) -> list[str]:
    actions = ", ".join(entry.actions)
    return [moment(entry.at), str(entry.thread_id), entry.actor or "", entry.client or "", entry.by, actions]


def _access(access: AccessView) -> list[str]:
    one = str(access.threads[0]) if len(access.threads) == 1 else f"{len(access.threads):,}"
    return [moment(access.at), access.actor or "", access.client or "", access.what, one, access.request]
