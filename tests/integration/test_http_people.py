"""Busy threads, cancellations, approvals, retries and forks over HTTP."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.agents import let_go
from tests.support.http import Api, running_api

AGENTS = tuple(f"tests.support.agents:{name}" for name in ("slow", "patient", "stuck", "cashier", "clerk", "returns"))

ENDS = {"TurnCompleted", "TurnFailed", "TurnCancelled", "TurnRolledBack"}


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(log_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=log_url, agents=AGENTS) as api:
        yield api


async def events(api: Api, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, str | int] = {"limit": 1_000}
    while True:
        page = (await api.get(f"/v1/threads/{thread}/events", params=query)).json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def settled(api: Api, thread: str, status: str = "idle") -> dict[str, Any]:
    async with asyncio.timeout(240):
        while (summary := (await api.get(f"/v1/threads/{thread}")).json())["status"] != status:
            await asyncio.sleep(0.02)
    return dict(summary)


def ends_of(found: list[dict[str, Any]]) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = {}
    for event in found:
        if event["type"] in ENDS:
            ends.setdefault(event["data"]["turn_id"], []).append(event["type"])
    return ends


class TestTwoHundredAtOnce:
    async def say_200(self, api: Api, thread: str, strategy: str) -> list[Any]:
        return await asyncio.gather(
            *[
                api.post(f"/v1/threads/{thread}/turns", json={"user_input": f"message {n}", "strategy": strategy})
                for n in range(200)
            ]
        )

    async def test_reject_takes_one(self, api: Api) -> None:
        thread = await api.opened(graph="stuck")
        answers = await self.say_200(api, thread, "reject")
        assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 199}
        (turn,) = [answer.json()["turn_id"] for answer in answers if answer.status_code == 202]
        await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
        assert ends_of(await events(api, thread)) == {turn: ["TurnCancelled"]}

    async def test_enqueue_runs_all_one_after_the_other(self, api: Api) -> None:
        thread = await api.opened(graph="assistant")
        answers = await self.say_200(api, thread, "enqueue")
        assert {answer.status_code for answer in answers} == {202}
        turns = [answer.json()["turn_id"] for answer in answers]
        assert len(set(turns)) == 200
        await settled(api, thread)
        found = await events(api, thread)
        assert ends_of(found) == {turn: ["TurnCompleted"] for turn in turns}
        order = [event["data"]["turn_id"] for event in found if event["type"] in {"TurnStarted", *ENDS}]
        assert order[0::2] == order[1::2], "one ends before the next begins"

    @pytest.mark.parametrize(("strategy", "end"), [("interrupt", "TurnCancelled"), ("rollback", "TurnRolledBack")])
    async def test_interrupt_and_rollback_leave_the_last_one(self, api: Api, strategy: str, end: str) -> None:
        thread = await api.opened(graph="slow")
        answers = await self.say_200(api, thread, strategy)
        assert {answer.status_code for answer in answers} == {202}
        summary = await settled(api, thread)
        ends = ends_of(await events(api, thread))
        assert set(ends) == {answer.json()["turn_id"] for answer in answers}
        assert all(len(one) == 1 for one in ends.values())
        outcomes = Counter(one[0] for one in ends.values())
        assert outcomes["TurnCompleted"] >= 1
        assert outcomes["TurnCompleted"] + outcomes[end] == 200
        assert summary["last_turn"]["outcome"] == "completed"
        said = (await api.get(f"/v1/threads/{thread}/state")).json()["window"]
        asked = [message for message in said if message["role"] == "user"]
        assert len(asked) == (200 if strategy == "interrupt" else outcomes["TurnCompleted"])


async def test_a_cancellation_that_races_the_end_leaves_one_end(api: Api) -> None:
    """Half of the threads are cancelled around the moment when their turn ends by itself."""
    outcomes: Counter[str] = Counter()

    async def race(number: int) -> None:
        thread = str(uuid4())
        said = await api.post("/v1/agent/invoke", json={"thread_id": thread, "user_input": f"/calculate {number}"})
        turn = said.json()["turn_id"]
        await asyncio.sleep(number % 50 / 1_000)
        cancelled = await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel")
        assert cancelled.status_code in {202, 409}
        await settled(api, thread)
        ((ended,),) = ends_of(await events(api, thread)).values()
        assert (ended == "TurnCancelled") == (cancelled.status_code == 202)
        outcomes[ended] += 1

    for batch in range(10):
        await asyncio.gather(*[race(20 * batch + n) for n in range(20)])
    assert outcomes.total() == 200
    assert set(outcomes) <= {"TurnCompleted", "TurnCancelled"}


async def test_a_cancelled_turn_can_be_waited_for_and_retried(api: Api) -> None:
    thread = await api.opened(graph="stuck")
    turn = (await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "go"})).json()["turn_id"]
    ended = await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
    assert (ended.status_code, ended.json()["status"], ended.json()["reason"]) == (200, "cancelled", "cancelled")
    again = await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel")
    assert (again.status_code, again.json()["status"]) == (202, "cancelled")
    retried = await api.post(f"/v1/threads/{thread}/turns/{turn}/retry")
    assert retried.status_code == 202
    (started,) = [e for e in await events(api, thread) if e["data"].get("retries") == turn]
    assert started["data"]["node"] == "stay"
    await api.post(f"/v1/threads/{thread}/turns/{retried.json()['turn_id']}/cancel", params={"wait": True})
    unknown = await api.post(f"/v1/threads/{thread}/turns/{uuid4()}/cancel")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (409, "turn_id")


async def test_a_queued_message_says_so_and_can_be_waited_for(api: Api) -> None:
    thread = await api.opened(graph="patient")
    await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "one"})
    path, body = f"/v1/threads/{thread}/turns", {"user_input": "two", "strategy": "enqueue"}
    waiting = await api.post(path, json={**body, "user_input": "three"})
    assert waiting.json()["status"] == "enqueued"
    let_go(thread)
    last = await api.post(path, params={"wait": True}, json=body)
    assert [m["content"] for m in last.json()["messages"]] == ["two", "You said: two", "That is all."]
    assert list(ends_of(await events(api, thread)).values()) == [["TurnCompleted"]] * 3


class TestApprovals:
    async def waiting(self, api: Api) -> tuple[str, dict[str, Any]]:
        thread = await api.opened(graph="cashier")
        await api.post(f"/v1/threads/{thread}/turns", json={"user_input": '/refund {"amount": 5}'})
        await settled(api, thread, "waiting")
        ((approval),) = (await api.get(f"/v1/threads/{thread}/approvals")).json()["items"]
        return thread, approval

    async def decide(self, api: Api, thread: str, approval: dict[str, Any], **body: Any) -> Any:
        path = f"/v1/threads/{thread}/approvals/{approval['approval_id']}"
        return await api.post(path, json={"hash": approval["hash"], **body})

    async def told(self, api: Api, thread: str) -> str:
        await settled(api, thread)
        messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        return str(next(m["content"] for m in messages if m["role"] == "tool"))

    async def test_granted(self, api: Api) -> None:
        thread, approval = await self.waiting(api)
        assert (approval["tool"], approval["arguments"], approval["because"]) == ("refund", {"amount": 5}, "policy")
        decided = await self.decide(api, thread, approval, decision="grant")
        assert (decided.status_code, decided.json()["decision"]) == (200, "granted")
        assert await self.told(api, thread) == "refunded 5"

    async def test_granted_with_other_arguments(self, api: Api) -> None:
        thread, approval = await self.waiting(api)
        await self.decide(api, thread, approval, decision="grant", arguments={"amount": 3})
        assert await self.told(api, thread) == "refunded 3"

    async def test_other_arguments_have_to_fit_the_tool(self, api: Api) -> None:
        thread, approval = await self.waiting(api)
        before = (await api.get(f"/v1/threads/{thread}")).json()
        for arguments, field, why in (
            ({"amount": "many"}, "arguments.amount", "valid integer"),
            ({}, "arguments.amount", "Field required"),
            ({"amount": 3, "to": {"city": "Oslo"}}, "arguments.to", "not permitted"),
        ):
            refused = await self.decide(api, thread, approval, decision="grant", arguments=arguments)
            (problem,) = refused.json()["errors"]
            assert (refused.status_code, problem["field"]) == (400, field)
            assert why in problem["message"]
        stale = await self.decide(api, thread, {**approval, "hash": "0" * 16}, decision="grant", arguments={})
        assert (stale.status_code, stale.json()["errors"][0]["field"]) == (409, "hash")
        assert (await api.get(f"/v1/threads/{thread}")).json() == before
        await self.decide(api, thread, approval, decision="grant", arguments={"amount": 3})
        assert await self.told(api, thread) == "refunded 3"

    async def test_no_person_is_asked_about_arguments_that_do_not_fit(self, api: Api) -> None:
        thread = await api.opened(graph="cashier")
        await api.post(f"/v1/threads/{thread}/turns", json={"user_input": '/refund {"amount": "many"}'})
        assert (await self.told(api, thread)).startswith("refund cannot be called like this: amount: ")
        assert "ApprovalRequested" not in {event["type"] for event in await events(api, thread)}

    async def test_a_tool_may_ask_itself(self, api: Api) -> None:
        thread = await api.opened(graph="cashier")
        await api.turn(thread, "/transfer 5")
        await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "/transfer 500"})
        await settled(api, thread, "waiting")
        ((approval),) = (await api.get(f"/v1/threads/{thread}/approvals")).json()["items"]
        assert (approval["tool"], approval["because"], approval["reason"]) == ("transfer", "policy", "500 is much.")
        assert (await self.decide(api, thread, approval, decision="grant")).status_code == 200
        await settled(api, thread)
        messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        assert [m["content"] for m in messages if m["role"] == "tool"] == ["transferred 5", "transferred 500"]

    async def test_denied(self, api: Api) -> None:
        thread, approval = await self.waiting(api)
        await self.decide(api, thread, approval, decision="deny", reason="Too late.")
        assert await self.told(api, thread) == "A person refused this: Too late."

    async def test_decisions_that_do_not_fit_change_nothing(self, api: Api) -> None:
        thread, approval = await self.waiting(api)
        wrong = await self.decide(api, thread, {**approval, "hash": "0" * 16}, decision="grant")
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (409, "hash")
        for body, field in (
            ({"decision": "deny", "arguments": {}}, "arguments"),
            ({"decision": "grant", "reason": "why not"}, "reason"),
            ({"decision": "perhaps"}, "decision"),
        ):
            refused = await self.decide(api, thread, approval, **body)
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)
        for approval_id, status in (("999", 404), ("-1", 400), ("x", 400), ("99999999999", 400)):
            unknown = await self.decide(api, thread, {**approval, "approval_id": approval_id}, decision="grant")
            assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (status, "approval_id")
        assert (await api.get(f"/v1/threads/{thread}/approvals")).json()["items"] == [approval]


class TestSubjects:
    async def test_a_tool_knows_the_customer_and_the_sender(self, api: Api) -> None:
        thread = await api.opened(graph="clerk", subject="customer-17", values={"order": "A-17"})
        path = f"/v1/threads/{thread}/turns"
        await api.post(path, params={"wait": True}, json={"user_input": "/whose"}, headers={"X-Actor": "anna"})
        messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        told = next(m["content"] for m in messages if m["role"] == "tool")
        assert told == "shop: anna asks for customer-17, {'order': 'A-17'}"
        assert (await api.get(f"/v1/threads/{thread}")).json()["subject"] == "customer-17"
        assert (await api.get(f"/v1/threads/{thread}/state")).json()["subject"] == "customer-17"
        fork = (await api.post(f"/v1/threads/{thread}/fork", json={})).json()["thread_id"]
        assert (await api.get(f"/v1/threads/{fork}")).json()["subject"] == "customer-17"
        async with asyncio.timeout(60):
            while not (listed := (await api.get("/v1/threads", params={"graph": "clerk"})).json()["items"]):
                await asyncio.sleep(0.02)
        assert {one["subject"] for one in listed} == {"customer-17"}

    async def test_it_is_given_once_and_is_not_too_long(self, api: Api) -> None:
        thread, key = str(uuid4()), {"Idempotency-Key": "open"}
        body = {"thread_id": thread, "subject": "customer-17"}
        assert (await api.post("/v1/threads", json=body, headers=key)).status_code == 201
        assert (await api.post("/v1/threads", json=body)).status_code == 200
        assert (await api.post("/v1/threads", json={**body, "subject": "customer-18"})).status_code == 409
        assert (await api.post("/v1/threads", json={**body, "subject": "x"}, headers=key)).status_code == 422
        long = await api.post("/v1/threads", json={"subject": "x" * 201})
        assert (long.status_code, long.json()["errors"][0]["field"]) == (400, "subject")
        assert (await api.get(f"/v1/threads/{await api.opened()}")).json()["subject"] == ""


class TestTypedValues:
    async def opened(self, api: Api) -> str:
        return await api.opened(graph="returns", values={"order_id": "A-17"})

    async def values(self, api: Api, thread: str) -> dict[str, Any]:
        return dict((await api.get(f"/v1/threads/{thread}/state")).json()["values"])

    async def test_opening_checks_and_fills_them(self, api: Api) -> None:
        thread, complete = await self.opened(api), {"order_id": "A-17", "amount": 0, "opened": "2026-11-30"}
        assert await self.values(api, thread) == complete
        body = {"thread_id": thread, "graph": "returns", "values": {"order_id": "A-17"}}
        assert (await api.post("/v1/threads", json=body)).status_code == 200, "the same again"
        for values, field in (
            ({}, "values.order_id"),
            ({"order_id": ""}, "values.order_id"),
            ({"order_id": "A-17", "amount": "much"}, "values.amount"),
            ({"order_id": "A-17", "oder_id": "B"}, "values.oder_id"),
        ):
            refused = await api.post("/v1/threads", json={"graph": "returns", "values": values})
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)
        refused = await api.post("/v1/agent/invoke", json={"graph": "returns", "user_input": "5"})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "values.order_id")

    async def test_changes_are_checked(self, api: Api) -> None:
        thread = await self.opened(api)
        path, before = f"/v1/threads/{thread}/values", await self.values(api, thread)
        for changes, field in (
            ({"order_id": None}, "values.order_id"),
            ({"amount": -1}, "values.amount"),
            ({"more": 1}, "values.more"),
        ):
            refused = await api.patch(path, json={"values": changes})
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)
            forked = await api.post(f"/v1/threads/{thread}/fork", json={"values": changes})
            assert (forked.status_code, forked.json()["errors"][0]["field"]) == (400, field)
        assert await self.values(api, thread) == before
        changed = await api.patch(path, json={"values": {"amount": 7, "opened": None}})
        assert changed.json()["values"] == {"order_id": "A-17", "amount": 7}
        fork = await api.post(f"/v1/threads/{thread}/fork", json={"values": {"amount": 8}})
        assert (await self.values(api, fork.json()["thread_id"]))["amount"] == 8

    async def test_a_node_reads_and_changes_them(self, api: Api) -> None:
        thread = await self.opened(api)
        assert (await api.turn(thread, "12")).json()["answer"] == "A-17 of 2026"
        assert (await self.values(api, thread))["amount"] == 12
        failed = (await api.turn(thread, "-12")).json()
        assert failed["status"] == "failed"
        assert "values.amount: Input should be greater than or equal to 0" in failed["detail"]
        assert (await self.values(api, thread))["amount"] == 12


class TestForks:
    async def test_a_fork_goes_its_own_way(self, api: Api) -> None:
        thread = await api.opened()
        await api.turn(thread, "/calculate 2 + 3")
        await api.turn(thread, "/calculate 4 + 4")
        messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        second = next(m["version"] for m in messages if "4 + 4" in (m["content"] or ""))
        forked = await api.post(f"/v1/threads/{thread}/fork", json={"at_version": second - 2, "values": {"a": 1}})
        assert forked.status_code == 201
        assert (forked.json()["parent"], forked.json()["at_version"]) == (thread, second - 2)
        fork = forked.json()["thread_id"]
        answered = await api.turn(fork, "/calculate 9 * 9")
        assert answered.json()["answer"] == "calculate says: 81"
        said = [m["content"] for m in (await api.get(f"/v1/threads/{fork}/messages")).json()["items"]]
        assert said[0] == "/calculate 2 + 3"
        assert "/calculate 4 + 4" not in said
        assert (await api.get(f"/v1/threads/{fork}/state")).json()["values"] == {"a": 1}
        past = await api.get(f"/v1/threads/{fork}/state", params={"at_version": 3})
        assert past.json()["window"][0]["content"] == "/calculate 2 + 3"
        found = await events(api, fork)
        assert [event["version"] for event in found] == list(range(1, len(found) + 1))

    async def test_repeating_it_gives_the_same_fork(self, api: Api) -> None:
        thread = await api.opened()
        key = {"Idempotency-Key": "fork-1"}
        first = await api.post(f"/v1/threads/{thread}/fork", json={}, headers=key)
        await api.turn(thread, "hello")
        again = await api.post(f"/v1/threads/{thread}/fork", json={}, headers=key)
        assert again.json() == first.json()

    async def test_bad_requests(self, api: Api) -> None:
        thread = await api.opened()
        for body, field in (
            ({"at_version": 9}, "at_version"),
            ({"at_version": 0}, "at_version"),
            ({"messages": [{"version": 1, "content": "?"}]}, "message"),
        ):
            refused = await api.post(f"/v1/threads/{thread}/fork", json=body)
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)
        taken = await api.post(f"/v1/threads/{thread}/fork", json={"thread_id": thread})
        assert taken.status_code == 409
        assert (await api.post(f"/v1/threads/{uuid4()}/fork", json={})).status_code == 404


async def test_workers_are_listed(api: Api) -> None:
    async with asyncio.timeout(60):  # a lease may run out for a moment where the machine is busy
        while [worker["shards"] for worker in (await api.get("/v1/workers")).json()] != [list(range(64))]:
            await asyncio.sleep(0.05)
