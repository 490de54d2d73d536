"""Calls of models that have cost something and are in no report yet. The next report carries them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from domain.application.budget.turn_budget import Reserved, TurnBudget
from domain.thread import commands
from domain.thread.events import ModelCalled, NodeEvent


@dataclass
class UnreportedCalls:
    """The calls of one run of a turn that are not reported yet, so that none is forgotten and none counted twice."""

    spending: TurnBudget
    _calls: list[tuple[ModelCalled, Reserved | None]] = field(default_factory=list)
    _reported: list[ModelCalled] = field(default_factory=list)
    """Calls that reports of the current node have carried."""

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._calls)

    def keep(self, called: ModelCalled, reserved: Reserved | None = None) -> None:
        """Remember a call and its reservation, which the call's cost replaces until the call is reported."""
        self._calls.append((called, reserved))
        if reserved is not None:
            self.spending.took(reserved, called)

    def carried_by(self, report: commands.RuntimeCommand) -> commands.RuntimeCommand:
        """Add the calls that a report lacks, and drop those from a node's facts that were reported before."""
        if self._reported and isinstance(report, commands.CompleteNode):
            report = replace(report, facts=self._without_reported(report.facts))
        has = list(_calls_of(report))
        missing = [called for called, _ in self._calls if not _removed(has, called)]
        return with_calls(report, missing) if missing else report

    def said(self, report: commands.RuntimeCommand) -> None:
        """Forget the calls of a report: the thread's state has them now."""
        calls, kept = _calls_of(report), []
        left = list(calls)
        for called, reserved in self._calls:
            if not _removed(left, called):
                kept.append((called, reserved))
            elif reserved:
                self.spending.recorded([reserved])
        self._calls = kept
        if isinstance(report, commands.CompleteNode):
            self._reported.clear()
        else:
            self._reported += calls

    def _without_reported(self, facts: Sequence[NodeEvent]) -> tuple[NodeEvent, ...]:
        """Leave out calls that an earlier report of the same node has carried, such as that of an item."""
        waiting, reported = [called for called, _ in self._calls], list(self._reported)
        return tuple(
            fact
            for fact in facts
            if not isinstance(fact, ModelCalled) or _removed(waiting, fact) or not _removed(reported, fact)
        )


def _removed(calls: list[ModelCalled], called: ModelCalled) -> bool:
    """Remove one call from a list; False if the list has no equal one. Equal calls are counted as often as they occur.

    Calls are compared by value, since a node may return copies.
    """
    if called not in calls:
        return False
    calls.remove(called)
    return True


_HAS_CALLS = (
    commands.AdvanceItem,
    commands.CompleteItem,
    commands.FailAttempt,
    commands.FailItem,
    commands.FailTurn,
    commands.RecordAnswer,
    commands.RecordModelCalls,
    commands.RecordModelFailure,
    commands.StopTurn,
)
"""Reports with a field for the model calls that they carry."""


def with_calls(report: commands.RuntimeCommand, calls: Sequence[ModelCalled]) -> commands.RuntimeCommand:
    """Add calls to a report. A report that has no place for them stays as it is."""
    match report:
        case commands.CompleteNode():
            return replace(report, facts=(*calls, *report.facts))
        case _ if isinstance(report, _HAS_CALLS):
            return replace(report, calls=(*calls, *report.calls))
        case _:
            return report


def calls_in(reports: Iterable[commands.RuntimeCommand]) -> Sequence[ModelCalled]:
    """Return the calls of several reports."""
    return [called for report in reports for called in _calls_of(report)]


def _calls_of(report: commands.RuntimeCommand) -> Sequence[ModelCalled]:
    match report:
        case commands.CompleteNode(facts=facts):
            return [fact for fact in facts if isinstance(fact, ModelCalled)]
        case _ if isinstance(report, _HAS_CALLS):
            return report.calls
        case _:
            return ()
