"""`threadfold chat`."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, suppress
from uuid import UUID

import click

from api.cli.bootstrap import EXIT_PROBLEM, connected, explained, here, log_to_stderr, model_of, place_of
from api.cli.output import counted, echo, moment
from api.cli.turn_printer import Screen
from api.cli.visible import spelled_out
from api.runtime.composition import open_runtime
from api.schemas.approvals import ApprovalView
from api.schemas.requests import DEFAULT_GRAPH, Decide
from api.services.threads import Opening, Service
from domain.application.streaming.follow import follow
from domain.errors import InvalidInput, NotFound, ThreadfoldError
from domain.ids import Version
from domain.thread.codec import Recorded, to_json
from domain.thread.events import ApprovalRequested, QuestionAsked, TurnCompleted, TurnEnd
from domain.thread.questions import question_for_customer
from domain.thread.state import Idle, Running
from infrastructure.settings import load_settings

with suppress(ImportError):
    import readline  # noqa: F401  (gives input() editing and a history)

PROMPT = "> "
INTERRUPTED = 130
"""The usual exit status after Ctrl-C."""


@click.command()
@click.option("--graph", help=f"The agent to talk to.  [default: {DEFAULT_GRAPH}]")
@click.option("--thread", type=click.UUID, help="Continue this thread.")
@click.option("--subject", help="The customer that a new thread is about, for tools that check it.")
def chat(*, graph: str | None, thread: UUID | None, subject: str | None) -> None:
    """Talk to an agent in the terminal, without a server. Each line is a message; /exit or Ctrl-D leaves.

    Lines may also come from a pipe. Then the exit status is 1 if a turn failed.
    """
    with explained(), asyncio.Runner() as runner:
        settings = load_settings()
        log_to_stderr("error", tracebacks=False)
        for module in ("runner", "turn_loop"):  # the screen shows how turns end
            logging.getLogger(f"domain.application.turns.{module}").setLevel(logging.CRITICAL)
        stack = AsyncExitStack()
        try:
            runtime = runner.run(stack.enter_async_context(connected(settings, open_runtime(settings))))
            talk = Talk(Service(runtime), graph, thread, subject)
            runner.run(talk.greet())
            status = _converse(runner, talk)
        finally:
            runner.run(stack.aclose())
    raise SystemExit(status)


def _converse(runner: asyncio.Runner, talk: "Talk") -> int:
    """Send each line of input. The event loop runs only during turns; in between, this waits for input."""
    failed = False
    try:
        runner.run(talk.finish_running_turn())
        for line in _lines():
            try:
                failed = not runner.run(talk.say(line)) or failed
                if talk.is_stuck:
                    break
            except ThreadfoldError as error:
                talk.screen.complain(str(error))
                failed = True
    except KeyboardInterrupt:
        talk.screen.note("Leaving. The running turn has 5 s to end; Ctrl-C again does not wait.")
        try:
            runner.run(talk.leave())
        except KeyboardInterrupt:
            runner.run(talk.leave(grace=0.0))
        return INTERRUPTED
    return EXIT_PROBLEM if failed and not sys.stdin.isatty() else 0


def _lines() -> Iterator[str]:
    """Yield the user's lines, up to the end of input or `/exit`."""
    asking = sys.stdin.isatty()
    while True:
        try:
            line = input(PROMPT) if asking else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            echo()
            return
        if line.strip() == "/exit" or not (line or asking):
            return
        if line.strip():
            yield line.strip()


class Talk:
    """A conversation in one thread. This process runs its turns, unless a worker does."""

    def __init__(self, service: Service, graph: str | None, thread: UUID | None, subject: str | None) -> None:
        self.screen = Screen()
        self.is_stuck = False
        """Whether the turn waits for a person who cannot answer here."""
        self._subject = subject
        self._service = service
        self._runtime = service.runtime
        self._graph = graph
        self._new = thread is None
        self._caller = here()
        self._thread_id = service.thread_id(thread, self._caller)
        self._worker = self._runtime.worker
        self._worker.shards.standby, self._worker.only = True, self._thread_id

    async def greet(self) -> None:
        """Check that the thread or the agent exists, and show which it is."""
        settings = self._runtime.settings
        if self._new:
            agent, story = self._service.agent(self._graph or DEFAULT_GRAPH), "new"
        else:
            loaded = await self._service.existing(self._thread_id, self._caller)
            thread = loaded.state.thread  # type: ignore[union-attr]  # it exists, so it was opened
            if self._graph not in {None, thread.graph}:
                raise InvalidInput("graph", f"the thread belongs to {thread.graph!r}")
            agent = self._service.agent(thread.graph)
            story = f"{counted(thread.turns, 'turn')}, last event at {moment(loaded.head.at)} UTC"
        self._graph = agent.name
        self.screen.note(f"Thread {self._thread_id} ({story}), agent {agent.name}")
        self.screen.note(f"Model: {model_of(settings)}. Data in {place_of(settings)}. /exit or Ctrl-D leaves.")

    async def say(self, text: str) -> bool:
        """Send a message, and show what happens until the turn is over. Return whether it completed."""
        await self._worker.begin()
        await self._finish_running()
        opening = Opening(subject=self._subject)
        started = await self._service.start_turn(
            self._thread_id, text, self._caller, open_with=self._graph, opening=opening
        )
        before = Version(started.outcome.loaded.head.version - len(started.outcome.events))
        ended_well = await self._follow(before)
        await self._worker.end()
        return ended_well

    async def finish_running_turn(self) -> None:
        """Wait for the end of a running turn. It continues here if no other process runs it."""
        await self._worker.begin()
        await self._finish_running()
        await self._worker.end()

    async def leave(self, grace: float = 5.0) -> None:
        """Give the running turn time to end, and show its state."""
        await self._worker.end(grace)
        loaded = await self._runtime.repository.load(self._thread_id, self._caller.tenant)
        again = f"threadfold chat --thread {self._thread_id}"
        if isinstance(loaded.state, Running):
            self.screen.note(
                f"The turn goes on later, at its node {loaded.state.turn.node}: in a server, or in {again}"
            )
        elif loaded.head.version:
            self.screen.note(f"The turn has ended; the thread has all of it: {again}")

    async def _finish_running(self) -> None:
        loaded = await self._runtime.repository.load(self._thread_id, self._caller.tenant)
        if isinstance(loaded.state, Running) and not question_for_customer(loaded.state):
            await self._service.history.begin_stream(self._thread_id, self._caller)
            self.screen.note(
                f"A turn is at its node {loaded.state.turn.node} since {moment(loaded.head.at)} UTC. It is shown as it "
                "goes on. Ctrl-C leaves."
            )
            if loaded.state.turn.waits and not await self._decide():
                return
            await self._follow(loaded.head.version)

    async def _follow(self, seen: Version) -> bool:
        """Show what happens after a version until the thread is idle. Return whether the last turn completed."""
        broadcast = self._runtime.turns.services.broadcast
        async with aclosing(follow(self._runtime.repository, broadcast, self._thread_id, seen)) as following:
            async for signal in following:
                if signal is None:
                    continue
                self.screen.show(signal)
                if isinstance(signal, Recorded):
                    match signal.event:
                        case QuestionAsked(to="customer"):
                            return True  # the next line is the answer
                        case QuestionAsked() | ApprovalRequested() if not await self._decide():
                            return False
                    if isinstance(signal.event, TurnEnd) and await self._is_over(signal):
                        return isinstance(signal.event, TurnCompleted)
        raise AssertionError("following never ends by itself")

    async def _is_over(self, end: Recorded) -> bool:
        """Return whether no queued turn began when this one ended."""
        after = await self._runtime.repository.load_at(self._thread_id, end.version, self._caller.tenant)
        return not (isinstance(after.state, Idle) and after.state.thread.queue)

    async def _decide(self) -> bool:
        """Ask the user about everything that waits for a person. Return whether the turn can go on."""
        for approval in await self._service.history.approvals(self._thread_id, self._caller):
            if approval.question is not None:
                if not await self._answer(approval):
                    return False
                continue
            what = f"{approval.tool} {to_json(approval.arguments)}" if approval.tool else f"node {approval.node}"
            what = spelled_out(what)
            again = " It was started before, and may have had its effect." if approval.because != "policy" else ""
            if not sys.stdin.isatty():
                self.screen.complain(
                    f"{what} needs a person's approval.{again} Refused: there is no terminal to ask at."
                )
                granted = False
            else:
                why = f" {spelled_out(approval.reason)}" if approval.reason else ""
                self.screen.note(f"{what} needs your approval.{why}{again}")
                answer = input("Run it? [y/N] ")  # noqa: ASYNC250  (nothing else runs meanwhile)
                granted = answer.strip().lower() in {"y", "yes"}
            decided = Decide(hash=approval.hash, decision="grant" if granted else "deny")
            with suppress(NotFound):  # another client was faster
                await self._service.decide_approval(self._thread_id, approval.approval_id, decided, self._caller)
        return True

    async def _answer(self, asked: ApprovalView) -> bool:
        """Let the user answer a question to a person. Return whether that was possible."""
        if not sys.stdin.isatty():
            self.screen.complain(f"A person has to answer, and there is no terminal to ask at: {asked.question}")
            self.is_stuck = True
            return False
        self.screen.note(f"{asked.question}")
        if asked.answer_schema:
            self.screen.note(f"The answer is JSON of this schema: {to_json(asked.answer_schema)}")
        while True:
            given = input("Answer: ")  # noqa: ASYNC250  (nothing else runs meanwhile)
            try:
                value = json.loads(given) if asked.answer_schema else given
                decided = Decide(hash=asked.hash, decision="answer", answer=value)
                with suppress(NotFound):  # another client was faster
                    await self._service.decide_approval(self._thread_id, asked.approval_id, decided, self._caller)
            except InvalidInput as error:
                self.screen.complain(str(error))
            except ValueError:
                self.screen.complain("That is not JSON. Text stands in quotes, a model is an object in braces.")
            else:
                return True
