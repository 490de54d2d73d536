"""Staged reports: decided, but stored later, several in one append. For durability `turn` and `async`.

If other processes write to the thread in between, their events come first. The staged reports are then decided again
in the new state, as if each had been stored at once. References to events that were only staged are moved by as many
versions as were inserted.
"""

from collections.abc import Sequence
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from domain.application.thread_repository import ChainedEvents, LoadedThread, ThreadRepository
from domain.application.turns.unreported_calls import calls_in, with_calls
from domain.ids import Version
from domain.ports.log import Append, Fence
from domain.thread import commands
from domain.thread.codec import Metadata, Recorded
from domain.thread.commands import RuntimeCommand
from domain.thread.decide import decide
from domain.thread.events import ContextAssembled, Event, HistoryCompacted, ModelCalled, NodeEvent


class StagedReport(Struct, frozen=True):
    """A report that is decided and not stored yet. It keeps its `number` when it is decided again."""

    report: RuntimeCommand
    chained: ChainedEvents
    number: int = 0

    @property
    def after(self) -> LoadedThread:
        """The thread after its events."""
        return self.chained.after


def stage(
    repository: ThreadRepository, loaded: LoadedThread, report: RuntimeCommand, metadata: Metadata, number: int = 0
) -> StagedReport | None:
    """Decide a report without storing it. Returns None if it causes no event."""
    events = decide(report, loaded.state)
    if not events:
        return None
    return StagedReport(report, repository.chain(loaded, events, metadata), number)


async def store_staged(
    repository: ThreadRepository, durable: LoadedThread, staged: Sequence[StagedReport], fence: Fence | None
) -> tuple[LoadedThread, Sequence[Recorded]]:
    """Store staged reports in one append. Returns the thread after them, and their events.

    Raises:
        VersionConflict: the thread has moved on; see `decided_again`.
        LeaseLost, StoreUnavailable: see `EventStore.append`.
    """
    records = tuple(record for each in staged for record in each.chained.records)
    recorded = [event for each in staged for event in each.chained.recorded]
    return await repository.append(ChainedEvents(durable, staged[-1].after, records, recorded), fence=fence)


def append_of(durable: LoadedThread, staged: Sequence[StagedReport]) -> Append:
    """Build the append of staged reports, for another worker to store if this one dies."""
    after = staged[-1].after
    records = tuple(record for each in staged for record in each.chained.records)
    in_turn, waiting = after.state.in_turn, after.state.waiting
    return Append(durable.tenant, durable.thread_id, durable.head, after.head, records, in_turn, waiting=waiting)


def decided_again(
    repository: ThreadRepository,
    now: LoadedThread,
    before: LoadedThread,
    staged: Sequence[StagedReport],
    metadata: Metadata,
    stored: Sequence[Recorded] = (),
) -> tuple[list[StagedReport], Sequence[ModelCalled]]:
    """Decide staged reports again, after the events that others have `stored`. Drops those that cause no event now.

    Model calls of dropped reports still count, unless they are stored. They are added to the last remaining report;
    if none remains, they are returned.
    """
    by = now.head.version - before.head.version
    again: list[StagedReport] = []
    dropped: list[RuntimeCommand] = []
    for each in staged:
        report, onto = _moved(each.report, before.head.version, by), again[-1].after if again else now
        moved = stage(repository, onto, report, metadata, each.number)
        if moved is None:  # the log has it already, or the turn has ended
            dropped.append(each.report)
        else:
            again.append(moved)
    known = [recorded.event for recorded in stored]
    calls = [called for called in calls_in(dropped) if not _removed(known, called)]
    if again and calls and (carrying := with_calls(again[-1].report, calls)) != again[-1].report:
        last, before_last = again[-1], again[-2].after if len(again) > 1 else now
        again[-1] = stage(repository, before_last, carrying, metadata, last.number) or last
        return again, ()
    return again, calls


def _removed(known: list[Event], called: ModelCalled) -> bool:
    """Remove a call from known events, if it is there. Only once: another call may look the same."""
    if called not in known:
        return False
    known.remove(called)
    return True


def _moved(report: RuntimeCommand, after: Version, by: int) -> RuntimeCommand:
    """Move a report's references to events after a version by `by` versions."""

    def at(version: int) -> Version:
        return Version(version + by if version > after else version)

    match report:
        case commands.StartCalls():
            return replace(report, calls=tuple((at(call), attempt) for call, attempt in report.calls))
        case commands.RequestApproval():
            return replace(report, calls=tuple(map(at, report.calls)))
        case commands.EndCall():
            return replace(report, call=at(report.call))
        case commands.CompactHistory():
            return replace(report, fact=replace(report.fact, through=at(report.fact.through)))
        case commands.CompleteNode():
            return replace(report, facts=tuple(_moved_fact(fact, after, by) for fact in report.facts))
        case commands.ResumeTurn() | commands.StopTurn() | commands.FailAttempt() | commands.FailTurn():
            return report
        case commands.StartFanOut() | commands.AdvanceItem() | commands.CompleteItem() | commands.FailItem():
            return report
        case commands.AskQuestion():
            return replace(report, call=at(report.call))
        case commands.RecordAnswer():
            return report
        case commands.RecordModelFailure() | commands.RecordModelCalls():
            return report
        case _:
            assert_never(report)


def _moved_fact(fact: NodeEvent, after: Version, by: int) -> NodeEvent:
    def at(version: int) -> int:
        return version + by if version > after else version

    match fact:
        case ContextAssembled():
            return replace(
                fact,
                first=at(fact.first),
                last=at(fact.last),
                summarised=at(fact.summarised),
                pinned=at(fact.pinned),
                recalled=tuple(replace(part, message=at(part.message)) for part in fact.recalled),
                shortened=tuple((at(message), kept) for message, kept in fact.shortened),
                of=at(fact.of),
            )
        case HistoryCompacted():
            return replace(fact, through=at(fact.through))
        case _:
            return fact
