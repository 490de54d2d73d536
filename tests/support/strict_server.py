"""A scripted model server that refuses what strict endpoints refuse."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from tests.fakes.openai_server import OpenAIServer, Reply, Request, chunk, events, refusal, stream
from tests.support.strict_chat import violations


class StrictServer(OpenAIServer):
    """Takes the next reply of the script for each request that it accepts; then it says that all is well."""

    def __init__(self, *script: Reply | Callable[[Request], Reply], own_fields: Collection[str] = ()) -> None:
        super().__init__(otherwise=self._answer)
        self.refused: list[list[str]] = []
        self.lines = list(script)
        self._own_fields = own_fields

    def _answer(self, request: Request) -> Reply:
        found = violations(request.body, self._own_fields)
        if found:
            self.refused.append(found)
            return refusal(400, "; ".join(found))
        line = self.lines.pop(0) if self.lines else stream("All ", "is well.")
        return line if isinstance(line, Reply) else line(request)

    @property
    def prompts(self) -> Sequence[list[dict[str, Any]]]:
        """The messages of each request."""
        return [request.body["messages"] for request in self.requests]


def asks(*calls: dict[str, Any], content: str | None = None, **more: Any) -> Reply:
    """Stream an answer that asks for tools."""
    numbered = [{"index": index, "type": "function", **call} for index, call in enumerate(calls)]
    return events(chunk(content, role="assistant", tool_calls=numbered, **more), chunk(finish="tool_calls"), "[DONE]")


def wish(name: str, arguments: str = "{}", call_id: str | None = "call_1", **more: Any) -> dict[str, Any]:
    return {"id": call_id, "function": {"name": name, "arguments": arguments}, **more}
