"""`threadfold verify`."""

import asyncio
import time
from collections.abc import Iterator
from uuid import UUID

import click
from msgspec import Struct

from api.cli.output import as_json, counted, show_json, visible
from api.cli.running import PROBLEM, ask
from api.service import Service
from domain.application.verify import Verified, verify_heads, verify_slices, verify_thread
from domain.errors import UnknownThread
from domain.ids import DEFAULT_TENANT, SLICES, Slice, ThreadId

AT_ONCE = 4
"""Slices checked at the same time: the database reads while this process computes hashes."""


class Report(Struct, frozen=True):
    """What was checked, how long it took, and what is wrong."""

    threads: int
    events: int
    slices: int
    seconds: float
    problems: tuple[str, ...]


@click.command()
@click.argument("thread", type=click.UUID, required=False)
@as_json
def verify(*, thread: UUID | None, as_json: bool) -> None:
    """Check every hash, version, position and payload of the log, or of one THREAD.

    Exits with 1 if anything is wrong.
    """
    report = ask(lambda service: _verify(service, thread))
    if as_json:
        show_json(report)
    else:
        _show(report)
    if report.problems:
        raise SystemExit(PROBLEM)


async def _verify(service: Service, thread: UUID | None) -> Report:
    started = time.monotonic()
    if thread is None:
        checked = await _verify_all(service)
    else:
        checked = await _verify_one(service, ThreadId(thread))
    seconds = round(time.monotonic() - started, 3)
    return Report(checked.threads, checked.events, 0 if thread else SLICES, seconds, checked.problems)


async def _verify_one(service: Service, thread_id: ThreadId) -> Verified:
    store = service.runtime.journal.store
    checked = await verify_thread(store, thread_id)
    if not checked.events and await store.thread(thread_id) is None:
        raise UnknownThread(thread_id)
    return checked


async def _verify_all(service: Service) -> Verified:
    store = service.runtime.journal.store
    slices = (Slice(number) for number in range(SLICES))  # shared: each check takes the next one

    async def check(remaining: Iterator[Slice]) -> Verified:
        return await verify_slices(store, remaining)

    at_once = min(AT_ONCE, service.runtime.settings.max_connections)
    checked = await asyncio.gather(*(check(slices) for _ in range(at_once)))
    cut_off = await verify_heads(store, DEFAULT_TENANT)
    return Verified(
        sum(part.threads for part in checked),
        sum(part.events for part in checked),
        tuple(sorted(problem for part in checked for problem in part.problems)) + cut_off.problems,
    )


def _show(report: Report) -> None:
    for problem in report.problems:
        click.echo(visible(problem))
    checked = f"{counted(report.threads, 'thread')}, {counted(report.events, 'event')}"
    slices = f", {counted(report.slices, 'slice')}" if report.slices else ""
    found = counted(len(report.problems), "problem") if report.problems else "no problem"
    click.echo(f"Checked {checked}{slices} in {report.seconds:.1f} s: {found} found.")
