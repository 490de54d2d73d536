"""How near Threadfold's count of a prompt's tokens is to an endpoint's own.

    .venv/bin/python -m benchmarks.counting --endpoint http://127.0.0.1:18080/v1 [--model NAME] [--prompts 50]

Sends prompts of the airline's recordings, short ones and such as just fit, without tools and then with them, and
compares the `usage` of each answer with what Threadfold counts before it sends a prompt. `LLM_API_KEY` is sent along.

A ratio above 1 means that the endpoint sees more tokens than Threadfold counts. The weights say why: how many of the
endpoint's tokens one of ours is, in texts, in what tools told and in tool calls, and what a message costs beyond them.
They are a least-squares fit over the prompts without tools.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import msgspec

from benchmarks.least_squares import least_squares
from domain.models.chat import MESSAGE_OVERHEAD, ToolCall, ToolSpec
from domain.thread.codec import to_json
from examples.airline.recordings import DATA, Message, conversations
from infrastructure.token_counter import TiktokenCounter

SYSTEM: Message = {"role": "system", "content": (DATA / "policy.md").read_text(encoding="utf-8")}
BRIEF: Message = {"role": "system", "content": "You are an airline's agent."}
TOOLS: Sequence[Any] = json.loads((DATA / "tools.json").read_bytes())
SPECS = tuple(msgspec.convert(tool["function"], ToolSpec) for tool in TOOLS)

CONVERSATIONS = 16

SLACK = 1.6
"""How many of the endpoint's tokens one of ours may be, when prompts are chosen that fit."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what Threadfold counts of it."""

    messages: Sequence[Message]
    texts: int
    results: int
    """Of tools: JSON mostly."""
    calls: int
    tools: int = 0
    reported: int = 0
    """What the endpoint counts."""

    @property
    def counted(self) -> int:
        """All of it, as Threadfold counts."""
        return self.texts + self.results + self.calls + self.tools + MESSAGE_OVERHEAD * len(self.messages)

    @property
    def ratio(self) -> float:
        return self.reported / self.counted


class Counter:
    """Counts as Threadfold does."""

    def __init__(self, model: str) -> None:
        self.tokens = TiktokenCounter(model)
        self.of_tools = self.tokens.count(to_json(SPECS))

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        texts, results = (
            sum(self.tokens.count(m["content"] or "") for m in messages if (m["role"] == "tool") is told)
            for told in (False, True)
        )
        calls = sum(self.tokens.count(to_json(_calls(m))) for m in messages if m.get("tool_calls"))
        return Prompt(messages, texts, results, calls)


def _calls(message: Message) -> Sequence[ToolCall]:
    return [
        ToolCall(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message["tool_calls"]
    ]


def prompts(counter: Counter, count: int, room: int) -> Sequence[Prompt]:
    """Choose prompts that fit into a room with the tools, of all lengths.

    Those that begin alike follow one another: many a server need not read the beginning again.
    """
    fitting = [prompt for prompt in _all(counter) if (prompt.counted + counter.of_tools) * SLACK < room]
    by_size = sorted(fitting, key=lambda prompt: prompt.counted)
    chosen = {index * (len(by_size) - 1) // max(count - 1, 1) for index in range(count)}
    return sorted((by_size[index] for index in chosen), key=fitting.index)


def _all(counter: Counter) -> Iterator[Prompt]:
    """Some conversations, each up to every place at which the model has spoken; half of them with the policy."""
    for number, conversation in enumerate([*conversations().values()][:CONVERSATIONS]):
        system = (SYSTEM, BRIEF)[number % 2]
        for place, message in enumerate(conversation.messages):
            if message["role"] == "assistant":
                yield counter.prompt([system, *conversation.messages[:place]])


def asked(client: httpx.Client, prompt: Prompt, model: str, more: dict[str, Any]) -> int:
    """Ask the endpoint, and return how many tokens it says the prompt has."""
    # Some servers, llama-cpp-python's among them, take no message without a text.
    messages = [{**message, "content": message["content"] or ""} for message in prompt.messages]
    body = {"model": model, "messages": messages, "max_tokens": 1, **more}
    answer = client.post("chat/completions", json=body)
    if not answer.is_success:
        raise RuntimeError(f"{answer.status_code} {answer.text[:500]}")
    reported: int = answer.json()["usage"]["prompt_tokens"]
    return reported


def main(client: httpx.Client, model: str, count: int, room: int, force: str | None) -> None:
    counter = Counter(model)
    chosen = prompts(counter, count, room)
    choice = {"tool_choice": {"type": "function", "function": {"name": force}}} if force else {}
    more = {"tools": TOOLS, **choice}
    bare, tooled = [], []
    for prompt in chosen:
        bare.append(replace(prompt, reported=asked(client, prompt, model, {})))
        tooled.append(replace(prompt, tools=counter.of_tools, reported=asked(client, prompt, model, more)))
    tell("without tools", bare)
    explain(bare)
    tell("with tools", tooled)
    added = statistics.median(b.reported - a.reported for a, b in zip(bare, tooled, strict=True))
    print(f"The tools take {counter.of_tools:,} tokens as counted, and {added:,.0f} at the endpoint.")


def tell(what: str, sent: Sequence[Prompt]) -> None:
    ratios = [prompt.ratio for prompt in sent]
    parts = statistics.quantiles(ratios, n=20, method="inclusive")
    sizes = [prompt.reported for prompt in sent]
    print(
        f"{len(sent)} prompts {what}, of {min(sizes):,} to {max(sizes):,} tokens: "
        f"reported/counted median {statistics.median(ratios):.3f}, p5 {parts[0]:.3f}, p95 {parts[-1]:.3f}"
    )


def explain(sent: Sequence[Prompt]) -> None:
    """Say which tokens the endpoint counts otherwise."""
    rows = [(prompt.texts, prompt.results, prompt.calls, len(prompt.messages)) for prompt in sent]
    text, result, call, message = least_squares(rows, [prompt.reported for prompt in sent])
    print(
        f"One of our tokens is {text:.2f} of theirs in texts, {result:.2f} in what tools told, {call:.2f} in calls; "
        f"a message costs {message:.1f} more, and we count {MESSAGE_OVERHEAD}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", required=True, help="such as http://127.0.0.1:18080/v1")
    parser.add_argument("--model", default="default", help="the model's name there; it also chooses the encoding")
    parser.add_argument("--prompts", type=int, default=50, help="each is sent twice")
    parser.add_argument("--context", type=int, default=8192, help="tokens that the model takes")
    parser.add_argument("--force-tool", help="a tool to insist on: some servers show tools only then")
    given = parser.parse_args()
    key = os.environ.get("LLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=given.endpoint, headers=headers, timeout=600) as client:
        main(client, given.model, given.prompts, given.context, given.force_tool)
