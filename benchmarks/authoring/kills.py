"""Kills each desk with SIGKILL at the same points, lets it go on, and counts what was doubled, lost and paid again."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.authoring.desks import Desk, Killed, LinesDesk, ThreadfoldDesk
from examples.returns.shop import Shop
from tests.fakes.openai_server import (
    USAGE,
    Cut,
    OpenAIServer,
    Pause,
    Reply,
    Request,
    chunk,
    completion,
    events,
    stream,
)

POINTS = {
    "refund": "the money was paid, its result is not stored",
    "mail": "the mail was sent, its result is not stored",
    "approval": "a person is asked to approve",
    "fan-out": "two of three items are judged",
}
"""When the process is killed."""

GONE_S = 0.5
"""Seconds that a desk has to store two verdicts before it is killed over the third."""

MAKE: dict[str, Callable[[dict[str, str], Path], Desk]] = {
    "Threadfold": ThreadfoldDesk,
    "LangGraph": lambda env, log: LinesDesk("benchmarks.authoring.langgraph_process", env, log / "log"),
    "pydantic-ai": lambda env, log: LinesDesk("benchmarks.authoring.pydantic_ai_process", env, log / "log"),
}
"""The desks, each made from its environment and an empty directory."""


@dataclass
class Outcome:
    """What a kill did to a desk."""

    desk: str
    point: str
    refunds: int = 0
    mails: int = 0
    paid_again: int = 0
    """Answers of the model that were delivered once more."""
    asked_again: int = 0
    """Questions to the customer or to a person that had been answered, and were asked once more."""
    resumed_s: float = 0.0
    """Seconds from the start of the next process until the turn had ended or waited again."""
    answer: str = ""
    """What the customer read at the end."""
    answers: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def doubled(self) -> int:
        """Payments and mails that happened more than once."""
        return max(0, self.refunds - 1) + max(0, self.mails - 1)

    @property
    def lost(self) -> int:
        """Payments and mails that did not happen, and answers that never came."""
        return (not self.refunds) + (not self.mails) + ("Your return" not in self.answer)


class Endpoint:
    """A scripted model, and how often each of its answers was delivered."""

    def __init__(self, outcome: Outcome, kill: Callable[[], object]) -> None:
        self._outcome, self._kill = outcome, kill
        self._armed = outcome.point == "fan-out"
        self._judged = 0

    def __call__(self, request: Request) -> Reply:
        """Answer as the question demands. The third item is not judged before the desk has been killed."""
        asked = _text(request.body["messages"][-1]["content"])
        if "May we take back" in asked and self._armed:
            self._judged += 1
            if self._judged == 3:
                self._armed = False
                asyncio.get_running_loop().call_later(GONE_S, self._kill)
                return Reply(before=[Pause(GONE_S + 0.5), Cut()])
        self._outcome.answers[asked] = self._outcome.answers.get(asked, 0) + 1
        if request.body.get("tools"):
            return _with_tool(request.body)
        text = _answer(asked, request.body)
        return stream(text) if request.body.get("stream") else completion(text)


async def killed_at(name: str, point: str, url: str, directory: Path) -> Outcome:
    """Let a customer return an order, kill the desk at the point, and start it again."""
    outcome, journal = Outcome(name, point), directory / "journal"
    tasks: list[asyncio.Task[None]] = []
    endpoint = Endpoint(outcome, lambda: tasks.append(asyncio.create_task(desk.kill())))
    async with OpenAIServer(otherwise=endpoint) as server:
        environment = {
            "DATABASE_URL": url,
            "SHOP_JOURNAL": str(journal),
            "KILLED": str(directory / "killed"),
            "KILL_AFTER": point,
            "LLM_ENDPOINT": server.endpoint,
            "OPENAI_BASE_URL": server.endpoint,
            "OPENAI_API_KEY": "none",
        }
        desk = MAKE[name](environment, directory)
        await desk.start()
        try:
            outcome.answer = await _converse(desk, outcome)
            found = await desk.say("Where is A-18?")
            if "tea towel" not in found:
                raise RuntimeError(f"{name} does not find the order: {found}")
        finally:
            await desk.stop()
    effects = Counter(effect.kind for effect in Shop(str(journal)).effects)
    outcome.refunds, outcome.mails = effects["refund"], effects["mail"]
    outcome.paid_again = sum(times - 1 for times in outcome.answers.values())
    return outcome


async def _converse(desk: Desk, outcome: Outcome) -> str:
    """Return an order: say so, name the order, approve. Whatever the desk asks twice is answered twice."""
    asked = await desk.say("I want to return what I bought")
    questions = 1
    said = 0
    for _ in range(8):
        try:
            if "Which order" in asked:
                said += 1
                asked = await desk.say("A-17")
            elif "dollars" in asked and "Your return" not in asked:
                if outcome.point == "approval" and not outcome.resumed_s:
                    await desk.kill()
                    asked = await _resumed(desk, outcome)
                    continue
                questions += 1
                asked = await desk.grant()
            else:
                break
        except Killed:
            asked = await _resumed(desk, outcome)
    outcome.asked_again = max(0, said - 1) + max(0, questions - 2)
    return asked


async def _resumed(desk: Desk, outcome: Outcome) -> str:
    """Start the desk again, and wait until its turn has ended or waits."""
    began = time.monotonic()
    await desk.start()
    asked = await desk.resume()
    outcome.resumed_s = time.monotonic() - began
    return asked


def _with_tool(body: dict[str, Any]) -> Reply:
    """Look the order up, then answer with what was found."""
    if body["messages"][-1]["role"] == "tool":
        text = f"Found: {_text(body['messages'][-1]['content'])}"
        return stream(text) if body.get("stream") else completion(text)
    function = {"name": "find_order", "arguments": '{"order": "A-18"}'}
    call = {"index": 0, "id": "call-1", "type": "function", "function": function}
    if body.get("stream"):
        return events(chunk("", role="assistant", tool_calls=[call]), chunk(finish="tool_calls"), USAGE, "[DONE]")
    return completion(None, [call], "tool_calls")


def _answer(asked: str, body: dict[str, Any]) -> str:
    """Answer in the form that is asked for: some wrap a word into an object with a field of their own."""
    verdict = "May we take back" in asked
    value: Any = {"accepted": True, "reason": "as new"} if verdict else "other" if "Where" in asked else "return"
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    fields = list(schema.get("properties", {}))
    if not verdict and fields:
        value = {fields[0]: value}
    return json.dumps(value)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
