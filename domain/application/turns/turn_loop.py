"""The loop of one turn: try the node in flight, report what came of it, and go to the next."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from domain.agents.error_text import error_text, failure_text
from domain.agents.graph import Node, alias_advice
from domain.agents.registry import Agents
from domain.application.turns.check_input import check_final_answer, check_values_after
from domain.application.turns.node_context import NodeContext
from domain.application.turns.returned_events import returned_events
from domain.application.turns.run import TurnRun
from domain.application.turns.token_counting import estimate_tokens
from domain.application.turns.user_code import Deadline, DeadlinePassed, run_user_code, trace_of
from domain.errors import (
    BudgetExhausted,
    LeaseLost,
    NodeTimeout,
    StoreUnavailable,
    ThreadfoldError,
    TurnIsOver,
    WaitsForPerson,
)
from domain.json import storable_text
from domain.models.chat import ModelError, NoAnswer
from domain.prompt.compaction import compacted, overflows
from domain.thread.codec import to_json
from domain.thread.commands import (
    CompactHistory,
    CompleteNode,
    FailAttempt,
    FailTurn,
    RequestApproval,
    RuntimeCommand,
    StopTurn,
)
from domain.thread.events import END, NodeEvent
from domain.thread.evolve import fold
from domain.thread.node_events import check_node_events, own_copy
from domain.thread.repeated_calls import most_repeated, repeat_error
from domain.thread.state import Running, Turn

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnLoop:
    """Runs one turn. While the store is unavailable, it waits `store_retry_s` seconds before each new attempt.

    Between two nodes it stops if the turn `is_handed_over` to another worker.
    """

    run: TurnRun
    agents: Agents
    store_retry_s: float
    is_handed_over: Callable[[], bool]

    async def steps(self) -> bool:
        """Run the turn to its end, or until it waits for a person. Returns False if another worker continues it."""
        run = self.run
        while (turn := run.turn) and not turn.waits:
            if self.is_handed_over():
                await run.save()
                return False
            try:
                if turn.cancelling:
                    await self._report(StopTurn(run.turn_id, None, 0, run.number))
                else:
                    await self._compact_window()
                    await self.step()
            except WaitsForPerson:
                await run.note_calls()
                await self._refresh()  # the decision may be in the log already
            except (TurnIsOver, LeaseLost):
                run.drop_staged()
                await self._refresh()
                return False
            except StoreUnavailable:
                _log.warning("The turn of %s waits for the store", run.thread_id)
                await asyncio.sleep(self.store_retry_s)
                await self._refresh()
        return True

    async def _refresh(self) -> None:
        """Read what other processes have written. Retries until the store answers."""
        while True:
            try:
                return await self.run.refresh()
            except StoreUnavailable:
                await asyncio.sleep(self.store_retry_s)

    async def _compact_window(self) -> None:
        """At a turn's beginning, compact the live window if it is larger than a prompt can be, whatever the graph."""
        state, services = self.run.loaded.state, self.run.services
        if not isinstance(state, Running) or state.turn.step or state.turn.calls:
            return
        if not overflows(state.thread.window, services.context_window):
            return
        fact = compacted(state.thread, services.context_window, services.tokens.count)
        if fact is not None:
            await self._report(CompactHistory(self.run.turn_id, fact, self.run.number))

    async def step(self) -> None:
        """Try the node in flight once."""
        run = self.run
        state, turn = run.loaded.state, run.turn
        agent = self.agents.running(state) if isinstance(state, Running) else None
        if not isinstance(state, Running) or turn is None or agent is None:
            raise TurnIsOver
        node = agent.graph.find(turn.node)
        if node is None:
            if turn.has_open_work:
                raise TurnIsOver  # another process may have the node: see `TakeUp`
            detail = f"The graph {agent.name!r} has no node {turn.node!r} any more. {alias_advice(turn.node)}."
            await self._report(FailTurn(run.turn_id, "graph_changed", detail, run.number))
        elif turn.step >= agent.graph.step_limit:
            detail = (
                f"The turn took {turn.step} steps, which is the limit of the graph {agent.name!r}. A retry goes on; "
                "raise step_limit where the agent is defined if its turns need more."
            )
            await self._report(FailTurn(run.turn_id, "step_limit", detail, run.number))
        elif agent.graph.repeat_limit is not None and most_repeated(turn.repeats) >= agent.graph.repeat_limit:
            tools = (message.name or "" for message in reversed(state.thread.window) if message.role == "tool")
            detail = repeat_error(turn.repeats, next(tools, ""))
            await self._report(FailTurn(run.turn_id, "repeated_calls", detail, run.number))
        elif node.approval and turn.approval is None:
            await self._report(RequestApproval(run.turn_id, run=run.number))
        else:
            context = NodeContext(run, agent)
            try:
                report = await self._attempt(context, node, turn)
            finally:
                context.close()
            if isinstance(report, StopTurn):  # the cancellation may not be in the state here yet
                await self._refresh()
            await self._report_attempt(report, turn)
            if isinstance(report, FailAttempt) and report.retry_in_ms:
                await run.pause(report.retry_in_ms / 1000)

    async def _attempt(self, context: NodeContext, node: Node, turn: Turn) -> RuntimeCommand:
        """Try a node, and return the report of its result or failure."""
        run, started = self.run, asyncio.get_running_loop().time()
        deadline = Deadline(node.timeout)
        try:
            with run.interruptible(deadline):
                name = f"node {node.name!r} of {run.place}"
                facts, following = await run_user_code(lambda: _run_node(context, node), name, deadline)
        except (TurnIsOver, LeaseLost, WaitsForPerson):
            raise
        except BudgetExhausted as error:
            return FailTurn(run.turn_id, "budget_exhausted", str(error), run.number)
        except DeadlinePassed:
            if run.stopping:  # a cancelled turn keeps what the model had written
                partial = storable_text(context.written)
                context.keep_written()
                return StopTurn(run.turn_id, partial, estimate_tokens(run.services.tokens, partial), run.number)
            late = NodeTimeout(f"did not end within {node.timeout:g} s")
            return self._failed(node, turn, late, _ms_since(started))
        except Exception as error:  # noqa: BLE001  (a node is the user's code: whatever it raises is its failure)
            return self._failed(node, turn, error, _ms_since(started), context.last_answer)
        return CompleteNode(run.turn_id, turn.step, facts, following, _ms_since(started), run.number)

    def _failed(
        self, node: Node, turn: Turn, error: Exception, duration_ms: int, model_answer: str = ""
    ) -> RuntimeCommand:
        """Report a failed attempt, and when the next one is due."""
        run = self.run
        trace = "" if isinstance(error, ThreadfoldError) else f"\n{trace_of(error)}"
        _log.warning("Node %s of %s failed: %s%s", node.name, run.thread_id, error_text(error), trace)
        retried = error.transient if isinstance(error, ModelError) else True
        delay = node.retry.delay_after(turn.attempt) if retried else None
        retry_in_ms = None if delay is None else int(delay * 1000)
        text, reason = failure_text(error, model_answer), error.reason if isinstance(error, NoAnswer) else "node_failed"
        return FailAttempt(
            run.turn_id, turn.step, turn.attempt, text, duration_ms, retry_in_ms, run.number, reason=reason
        )

    async def _report(self, command: RuntimeCommand) -> None:
        """Store a report. Raises `TurnIsOver` if it causes no event: then another worker runs this turn."""
        if not await self.run.report(command, durable=False):
            raise TurnIsOver

    async def _report_attempt(self, report: RuntimeCommand, turn: Turn) -> None:
        """Store the report of an attempt. If the log cannot take it, the attempt has failed, and is not repeated."""
        run = self.run
        try:
            await self._report(report)
        except (TurnIsOver, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001  (a defect, or an event that no store takes)
            _log.exception("The result of node %s of %s cannot be stored", turn.node, run.thread_id)
            run.reject_staged()
            await self._refresh()
            text = f"The result of the node cannot be stored: {error_text(error)}"
            await self._report(FailAttempt(run.turn_id, turn.step, turn.attempt, text, 0, None, run.number))


async def _run_node(context: NodeContext, node: Node) -> tuple[tuple[NodeEvent, ...], str]:
    """Run a node. Returns its events and the node that the graph chooses next, given these events.

    Raises for events that cannot be stored.
    """
    returned = returned_events(await node.run(context))
    state, graph = context.state, context.agent.graph
    facts = context.complete([own_copy(fact) for fact in returned])
    check_node_events(facts, state)
    if graph.values is not None:
        check_values_after(graph.values, state, facts)
    to_json(facts)
    after = fold(state, facts) if graph.chooses(node.name) else state
    if not isinstance(after, Running):
        raise TurnIsOver
    following = graph.after(node.name, after)
    if following == END:
        check_final_answer(state, facts)
    return facts, following


def _ms_since(started: float) -> int:
    """Return the milliseconds since a time of the event loop's clock."""
    return int((asyncio.get_running_loop().time() - started) * 1000)
