"""A model's endpoint that counts what it is asked: each answer is paid for, so none may be asked for twice."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.fakes.openai_server import OpenAIServer, Pause, Reply, Request, completion


@dataclass
class CountingModel:
    """Answers after some time. `server` is to be entered."""

    chance: random.Random
    between: tuple[float, float] = (0.2, 2.0)
    """Seconds that an answer takes."""
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often it was asked: by what the user said last, and how often the agent has spoken since the beginning."""
    tokens: int | None = None
    """Tokens that each answer reports; None: as many as there are."""

    def __post_init__(self) -> None:
        self.server = OpenAIServer(otherwise=self._answer)

    @property
    def endpoint(self) -> str:
        """Where to ask."""
        return self.server.endpoint

    def paid_twice(self) -> list[str]:
        """List what was asked for more than once."""
        return [
            f"the answer to {said!r} after {before} answers was paid {count} times"
            for (said, before), count in self.asked.items()
            if count > 1
        ]

    def _answer(self, request: Request) -> Reply:
        messages = request.body["messages"]
        said = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
        self.asked[said, sum(m["role"] == "assistant" for m in messages)] += 1
        text = f"Answer to {said}."
        prompt = len(json.dumps(messages)) // 4
        usage = {"prompt_tokens": prompt, "completion_tokens": self.tokens or 8}
        reply = completion(text, usage=usage)
        return Reply(reply.body, reply.status, reply.headers, [Pause(self.chance.uniform(*self.between))])
