"""What a long conversation costs: tokens of prompts by turn, and money, of Threadfold and of others.

    .venv/bin/python -m benchmarks.context [--customers 4] [--limit 8000] [--set NAME=VALUE] [--json FILE]

Customers say 200 turns of the airline's recordings, put one behind the other, to the recorded model over HTTP. It is
shown everything, or the last messages that fit, or what Threadfold shows: a server on the embedded PostgreSQL. Its own
`usage` is what is counted, of every call, those that keep a memory included. All three get the same answers, and all
are checked. Each way has the endpoint's cache to itself, which knows the longest beginning that a prompt shares with an
earlier one, in blocks of 128 tokens from 1,024 on. The last lines say whether ours stays flat, takes 85 % less in the
end, and costs less than the others where what is cached costs 90 % less; if not, the exit code is 1.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks import prompts, spending
from benchmarks.spending import PRICED_AS, Call, Spending
from domain.application.turns.model_calls import ANSWER_RESERVE
from examples.airline.recordings import DATA, Conversation, concatenated, conversations
from infrastructure.settings import CHECKOUT
from tests.e2e.airline import Customer, as_recorded, as_served
from tests.e2e.server_process import ServerProcess, recorded_model, threadfold
from tests.fakes.recorded_model import THREAD

LAST = spending.TURNS[-1]

SYSTEM = (DATA / "policy.md").read_text(encoding="utf-8")
TOOLS = json.loads((DATA / "tools.json").read_bytes())

SMALL = "gpt-4o-mini"
"""The name of the model that keeps the memory: calls are priced by it."""


class Ledger:
    """Reads from the recorded model what each call took."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60)
        self.seen = 0

    async def begin(self) -> None:
        """Empty the endpoint's cache: no way of making prompts gains from another one's."""
        (await self.client.delete("/cache")).raise_for_status()

    async def new(self) -> Sequence[Call]:
        """List the calls since the last time."""
        calls: list[Call] = (await self.client.get("/usage", params={"after": self.seen})).raise_for_status().json()
        self.seen += len(calls)
        return calls


async def shown(name: str, show: prompts.Show, customers: Sequence[Conversation], ledger: Ledger) -> Spending:
    """Let a way of making prompts answer all customers."""
    await ledger.begin()
    return Spending(name, [await _answered(customer, show, ledger) for customer in customers])


async def _answered(customer: Conversation, show: prompts.Show, ledger: Ledger) -> spending.Played:
    turns: list[Sequence[Call]] = []
    for place, message in enumerate(customer.messages):
        if message["role"] == "user":
            if turns:
                turns[-1] = await ledger.new()
            if len(turns) == LAST:
                break
            turns.append(())
        elif message["role"] == "assistant":
            body = {"model": PRICED_AS, **show(customer.messages[:place])}
            headers = {THREAD: str(customer.thread_id)}
            answer = await ledger.client.post("/v1/chat/completions", json=body, headers=headers)
            if answer.raise_for_status().json()["choices"][0]["message"] != message:
                raise RuntimeError(f"{customer.id}: message {place} is another one")
    turns[-1] = [*turns[-1], *await ledger.new()]
    return turns


async def served(
    customers: Sequence[Conversation], ledger: Ledger, directory: Path, settings: dict[str, str]
) -> Spending:
    """Let Threadfold answer all customers."""
    played = []
    await ledger.begin()
    async with (
        threadfold(directory, **settings) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client,
    ):
        for conversation in customers:
            customer, turns = Customer(client, conversation), []
            for number in range(LAST):
                await customer.say(number)
                turns.append(await ledger.new())
            await _check(customer)
            played.append(turns)
    played[-1][-1] = [*played[-1][-1], *await ledger.new()]  # what was still going on when the server stopped
    return Spending("Threadfold", played)


async def _check(customer: Customer) -> None:
    """The transcript is what was recorded, though the model was shown so little of it."""
    said = [*map(as_served, await customer.messages())]
    if said != [*map(as_recorded, customer.conversation.messages[: len(said)])]:
        raise RuntimeError(f"{customer.conversation.id}: the transcript is another one")


async def main(count: int, limit: int, settings: dict[str, str], directory: Path) -> Sequence[Spending]:
    customers = [concatenated(first, LAST) for first in range(0, len(conversations()), len(conversations()) // count)]
    async with recorded_model(directory) as model:
        ledger = Ledger(model)
        ours = {
            "AGENTS": "examples.airline.agent:airline",
            "CONTEXT_WINDOW_LIMIT": str(limit),
            "LLM_ENDPOINT": f"{model.url}/v1",
            "LLM_MODEL": PRICED_AS,
            **settings,
        }
        room = int(limit * (1 - ANSWER_RESERVE))  # what Threadfold leaves for prompts
        everything = await shown("everything appended", prompts.everything(SYSTEM, TOOLS), customers[:count], ledger)
        window = await shown("the last that fit", prompts.window(SYSTEM, TOOLS, room), customers[:count], ledger)
        threads = await served(customers[:count], ledger, directory, ours)
        await ledger.client.aclose()
    return [everything, window, threads]


def told(ways: Sequence[Spending], report: Path) -> bool:
    """Print the table and the judgement, and write the numbers down."""
    prices = spending.read_prices(CHECKOUT / "infrastructure" / "prices.json")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(spending.as_json(ways, prices)))
    print(spending.table(ways, prices))
    print()
    for way in ways:
        print(f"{way.name}: largest prompt {way.largest():,}; {way.memory():,.0f} tokens went into memory")
    verdicts = spending.verdicts(ways[0], ways[1], ways[2], prices)
    for good, sentence in verdicts:
        print(f"{'yes' if good else 'NO'}: {sentence}")
    return all(good for good, _ in verdicts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=4, choices=range(1, 41), metavar="1-40")
    parser.add_argument("--limit", type=int, default=8000, help="CONTEXT_WINDOW_LIMIT, for the second way, too")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Threadfold's")
    parser.add_argument("--json", type=Path, default=CHECKOUT / ".data" / "benchmarks" / "context.json")
    given = parser.parse_args()
    more = {"LLM_SMALL_MODEL": SMALL} | dict(setting.split("=", 1) for setting in given.set)
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        taken = asyncio.run(main(given.customers, given.limit, more, Path(name)))
    sys.exit(not told(taken, given.json))
