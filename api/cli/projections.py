"""`threadfold projections`: list, rebuild, rollback, drop, parked, retry, skip."""

import asyncio
import time
from collections.abc import Sequence

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from api.cli.bootstrap import EXIT_PROBLEM, answer, ask, here
from api.cli.output import as_json, echo, moment, show_table, terminal
from api.schemas.read_models import InstanceView, ParkedView, ProjectionView
from api.schemas.requests import MAX_THROTTLE
from api.services.threads import Service
from domain.ids import ThreadId

POLL_S = 0.2
"""Seconds between two looks at a build."""

STALLED_AFTER_S = 3.0
"""Seconds without progress after which this process builds, if no worker runs."""


@click.group()
def projections() -> None:
    """Manage the read models, which are built from the log and can be rebuilt."""


@projections.command("list")
@as_json
def list_projections(*, as_json: bool) -> None:
    """List the read models: which instance serves, how many events each is behind, and what is parked."""
    answer(lambda service: service.projection_admin.projections(), _show, as_json=as_json)


def _show(found: Sequence[ProjectionView]) -> None:
    rows = [
        [
            projection.name,
            *map(str, (one.instance, one.version, one.status)),
            *(f"{n:,}" for n in (one.done, one.lag, one.parked)),
        ]
        for projection in found
        for one in projection.instances
    ]
    show_table(["PROJECTION", "INSTANCE", "VERSION", "STATUS", "EVENTS", "LAG", "PARKED"], rows)


@projections.command()
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--throttle", type=click.IntRange(1, MAX_THROTTLE), help="Events a second, at most.")
def rebuild(*, names: tuple[str, ...], every: bool, throttle: int | None) -> None:
    """Rebuild read models NAMES while the old ones serve, and switch to the new ones once they have caught up.

    Running workers build; without any, this process does. It may be interrupted: the build continues where it stopped.
    """
    if every == bool(names):
        raise click.UsageError("Name the read models to build, or use --all.")
    ask(lambda service: _rebuild(service, names, throttle))


@projections.command()
@click.argument("name")
def rollback(*, name: str) -> None:
    """Let the instance of the read model NAME that served before serve again."""
    instance = ask(lambda service: service.projection_admin.roll_back(name, here()))
    echo(f"Instance {instance.id} of {name} serves again.")


@projections.command()
@click.argument("name")
def drop(*, name: str) -> None:
    """Drop the instances of the read model NAME that do not serve, and their tables.

    All instances of a read model that the code does not know are dropped.
    """
    ask(lambda service: service.projection_admin.drop(name, here()))
    echo(f"Only what serves of {name} is left.")


@projections.command()
@as_json
def parked(*, as_json: bool) -> None:
    """List the threads that read models leave out since an event that they could not process."""
    answer(lambda service: service.projection_admin.parked(), _show_parked, as_json=as_json)


def _show_parked(found: Sequence[ParkedView]) -> None:
    rows = [
        [one.projection, str(one.thread_id), str(one.version), one.type, moment(one.at), one.error] for one in found
    ]
    headings = ["PROJECTION", "THREAD", "VERSION", "EVENT", "SINCE (UTC)", "ERROR"]
    show_table(headings, rows, wrap=True, empty="Nothing is parked.")


@projections.command()
@click.argument("name")
@click.argument("thread", type=click.UUID)
def retry(*, name: str, thread: ThreadId) -> None:
    """Retry a parked THREAD in the read model NAME, now that its handler can process the event."""
    _settle(name, thread, skip=False)


@projections.command()
@click.argument("name")
@click.argument("thread", type=click.UUID)
def skip(*, name: str, thread: ThreadId) -> None:
    """Skip the event that THREAD is parked at in the read model NAME, and process the later ones."""
    _settle(name, thread, skip=True)


def _settle(name: str, thread: ThreadId, *, skip: bool) -> None:
    if ask(lambda service: service.projection_admin.settle(name, thread, here(), skip=skip)):
        echo(f"{thread} is up to date in {name}.")
        return
    echo(f"{thread} is parked again: `threadfold projections parked` says why.", err=True)
    raise SystemExit(EXIT_PROBLEM)


async def _rebuild(service: Service, names: Sequence[str], throttle: int | None) -> None:
    await service.runtime.log.models.register([p.shape for p in service.runtime.runner.projections])
    everything = names or [projection.name for projection in service.runtime.runner.projections]
    group = await service.projection_admin.rebuild(everything, throttle, here())
    counted = TextColumn("{task.completed:,.0f} of {task.total:,.0f} events {task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), counted)
    started, moved = time.monotonic(), (time.monotonic(), 0)
    with Progress(*columns, TimeRemainingColumn(), console=terminal()) as progress:
        bar = progress.add_task("building", total=0, rate="")
        while building := await _building(service, everything):
            done, total = building[0].done, building[0].done + building[0].lag
            rate = f"at {building[0].rate:,.0f}/s" if building[0].rate else ""
            progress.update(bar, completed=done, total=total, rate=rate)
            if done != moved[1]:
                moved = (time.monotonic(), done)
            if time.monotonic() - moved[0] > STALLED_AFTER_S and not await service.runtime.worker.leases.workers():
                await service.runtime.build(group)
            await asyncio.sleep(POLL_S)
        progress.update(bar, completed=moved[1], total=moved[1])
    seconds = time.monotonic() - started
    echo(f"Built {', '.join(everything)} from {moved[1]:,} events in {seconds:.1f} s.")


async def _building(service: Service, names: Sequence[str]) -> Sequence[InstanceView]:
    views = [view for view in await service.projection_admin.projections() if view.name in names]
    return [instance for view in views for instance in view.instances if instance.status == "building"]
