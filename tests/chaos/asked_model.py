"""A model's endpoint that answers the agent of `inquiry`, and writes down when it was asked what."""

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.inquiry import BROKEN, answer_of, mark
from tests.fakes.openai_server import OpenAIServer, Pause, Reply, Request, chunk, events

PIECES = 3
"""Pieces in which an answer is streamed."""


@dataclass(frozen=True)
class Paid:
    """A request that the endpoint was paid for: the prompt, whether it corrects an answer, and when it arrived.

    `prompt` of a conversation is the message that started the turn. `at` is in seconds since 1970.
    """

    prompt: str
    at: float
    corrects: bool = False


@dataclass
class AskedModel:
    """Answers within a fraction of a second. `server` is to be entered."""

    chance: random.Random
    paid: list[Paid] = field(default_factory=list)
    _times: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.server = OpenAIServer(otherwise=self._answer)

    def _answer(self, request: Request) -> Reply:
        at = time.time()
        said = [message["content"] or "" for message in request.body["messages"] if message["role"] == "user"]
        turns = [text for text in said if text.startswith("Turn ")]
        prompt = turns[-1] if turns else said[0]
        corrects = not turns and len(said) > 1
        self.paid.append(Paid(prompt, at, corrects))
        self._times[prompt] += 1
        return self._stream(self._text(prompt, corrects=corrects))

    def _text(self, prompt: str, *, corrects: bool) -> str:
        match prompt.partition(" ")[0]:
            case "Turn":
                return mark(prompt)
            case "flaky" if self._times[prompt] == 1:
                return BROKEN
            case "strict" if not corrects:
                return "It depends."
            case "fact" | "strict":
                return json.dumps({"of": answer_of(prompt)})
            case "intent":
                return json.dumps({"answer": answer_of(prompt)})
            case _:
                return str(answer_of(prompt))

    def _stream(self, text: str) -> Reply:
        size = len(text) // PIECES + 1
        pieces = [chunk(text[start : start + size]) for start in range(0, len(text), size)]
        pauses = [Pause(self.chance.uniform(0.0, 0.03)) for _ in pieces]
        steps = [step for both in zip(pauses, pieces, strict=True) for step in both]
        usage = {"model": "test-1", "choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 5}}
        return events(chunk("", role="assistant"), *steps, chunk(finish="stop"), usage, "[DONE]")
