"""The airline's customers: they say over HTTP what was recorded, and compare what comes back."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from examples.airline.recordings import Conversation, canonical
from examples.airline.recordings import Message as Recorded

PAGE = 10
"""Few enough messages that a transcript takes several pages."""

POLL = 0.02


@dataclass(frozen=True)
class Customer:
    """One customer of one conversation. `waits` for answers, or else polls for them."""

    client: httpx.AsyncClient
    conversation: Conversation
    waits: bool = True

    @property
    def says(self) -> Sequence[str]:
        """What the customer says in the recording, one turn each."""
        return [message["content"] for message in self.conversation.messages if message["role"] == "user"]

    async def say(self, number: int) -> str:
        """Say the message of this number, wait for the end of the turn, and return the checkpoint after it."""
        if not self.waits:
            accepted = await self.invoke(number)
            return await self._finished(accepted["turn_id"])
        if number == 0:
            await self._post("/v1/threads", {"thread_id": self._thread, "graph": "airline"}, "open")
        path = f"/v1/threads/{self._thread}/turns"
        turn = await self._post(path, {"user_input": self.says[number]}, str(number), wait="true")
        assert turn["status"] == "completed", turn
        return str(turn["checkpoint"])

    async def invoke(self, number: int) -> dict[str, Any]:
        """Say the message of this number, and do not wait for anything."""
        body = {"thread_id": self._thread, "graph": "airline", "user_input": self.says[number]}
        return await self._post("/v1/agent/invoke", body, str(number))

    async def messages(self) -> Sequence[dict[str, Any]]:
        """Read the thread's transcript."""
        return await self._pages("messages")

    async def events(self) -> Sequence[dict[str, Any]]:
        """Read the thread's log."""
        return await self._pages("events")

    @property
    def _thread(self) -> str:
        return str(self.conversation.thread_id)

    async def _finished(self, turn_id: str) -> str:
        async with asyncio.timeout(60):
            while True:
                state = (await self.client.get(f"/v1/threads/{self._thread}/state")).raise_for_status().json()
                if state["status"] == "idle":
                    ended = state["last_turn"]
                    assert (ended["turn_id"], ended["outcome"]) == (turn_id, "completed"), ended
                    return str(state["checkpoint"])
                await asyncio.sleep(POLL)

    async def _post(self, path: str, body: dict[str, Any], key: str, **query: str) -> dict[str, Any]:
        """Ask with an idempotency key, as a client does that may have to ask again."""
        headers = {"Idempotency-Key": f"{self.conversation.id}/{key}"}
        response = await self.client.post(path, json=body, headers=headers, params=query)
        assert response.is_success, f"{response.status_code} {response.text}"
        answer: dict[str, Any] = response.json()
        return answer

    async def _pages(self, what: str) -> Sequence[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        query: dict[str, str | int] = {"limit": PAGE}
        while True:
            page = (await self.client.get(f"/v1/threads/{self._thread}/{what}", params=query)).raise_for_status().json()
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            query["cursor"] = page["next_cursor"]


def as_recorded(message: Recorded) -> dict[str, Any]:
    """Bring a message of OpenAI's format into the form to compare."""
    calls = message.get("tool_calls") or ()
    parsed = [
        (call["id"], call["function"]["name"], canonical(json.loads(call["function"]["arguments"]))) for call in calls
    ]
    return _comparable(message, parsed)


def as_served(message: dict[str, Any]) -> dict[str, Any]:
    """Bring a message of the API into the form to compare."""
    calls = message.get("tool_calls") or ()
    return _comparable(message, [(call["id"], call["name"], canonical(call["arguments"])) for call in calls])


def _comparable(message: Recorded, calls: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    plain = {name: message.get(name) for name in ("role", "content", "tool_call_id", "name")}
    return {**plain, "tool_calls": calls}
