"""What authors of agents test with."""

import time
from collections.abc import Sequence

import pytest
from pydantic import BaseModel

from threadfold import (
    END,
    Agent,
    Branch,
    Graph,
    InvalidInput,
    MissingNode,
    Node,
    NodeEvent,
    RetryPolicy,
    Running,
    Strategy,
    ToolContext,
    TurnContext,
    assistant,
    tool,
)
from threadfold.testing import Conversation, Prompt, Script, call

SENT: list[str] = []


@tool(approval=True)
async def refund(order: str, amount: int = 1) -> str:
    """Refund an order."""
    SENT.append(f"{order} {amount}")
    return f"refunded {amount} for {order}"


@tool(idempotent=True)
async def look_up(order: str) -> str:
    """Look up an order."""
    return {"A-17": "shipped"}.get(order, "unknown")


desk = assistant("desk", tools=[refund, look_up])


@pytest.fixture(autouse=True)
def _nothing_sent() -> None:
    SENT.clear()


async def test_texts_and_calls() -> None:
    talk = Conversation(desk, Script(call("look_up", order="A-17"), "It was shipped.", "You are welcome."))
    turn = await talk.say("Where is A-17?")
    assert (turn.status, turn.answer) == ("completed", "It was shipped.")
    assert [(one.tool, one.outcome, one.content) for one in turn.tools] == [("look_up", "succeeded", "shipped")]
    assert (await talk.say("Thanks")).answer == "You are welcome."
    assert (await talk.thread()).turns == 2
    assert talk.script.left == 0


async def test_approvals() -> None:
    script = Script(call("refund", order="A-17", amount=5), "Done.", call("refund", order="B"), "Not done.")
    talk = Conversation(desk, script)
    assert (await talk.say("Money back")).status == "waiting"
    (pending,) = await talk.pending()
    assert (pending.kind, pending.tool, pending.arguments) == ("call", "refund", {"order": "A-17", "amount": 5})
    assert (await talk.grant(amount=3)).answer == "Done."
    assert SENT == ["A-17 3"]
    await talk.say("And B")
    turn = await talk.deny("too late")
    assert turn.tools[0].outcome == "denied"
    assert SENT == ["A-17 3"]
    with pytest.raises(AssertionError, match="the turn waits for: nothing"):
        await talk.grant()


async def test_functions_of_the_prompt() -> None:
    def reply(prompt: Prompt) -> str:
        return f"{len(prompt.messages)} messages, {prompt.last}, {prompt.tools}, {prompt.system[:12]!r}"

    talk = Conversation(assistant("plain", instructions="Be brief."), Script(otherwise=reply))
    assert (await talk.say("one")).answer == "2 messages, one, [], 'Be brief.'"
    assert (await talk.say("two")).answer == "4 messages, two, [], 'Be brief.'"


async def test_a_crash_before_the_result_of_a_tool_is_stored() -> None:
    script = Script(call("refund", order="A-17"), lambda prompt: prompt.last)
    talk = Conversation(desk, script)
    await talk.say("Money back")
    turn = await talk.grant(crash="before ToolSucceeded")
    assert turn.status == "crashed"
    turn = await talk.resume()
    assert SENT == ["A-17 1"], "the refund is not sent twice"
    assert turn.tools[0].outcome == "unknown"
    assert "It is not known whether this call had an effect" in (turn.answer or "")


async def test_a_crash_that_is_not_reached_fails_the_test() -> None:
    talk = Conversation(desk, Script("Hello."))
    with pytest.raises(AssertionError, match="did not reach 'after ToolStarted'; its events are: ThreadOpened"):
        await talk.say("Hi", crash="after ToolStarted")
    with pytest.raises(ValueError, match="write 'before' or 'after' and a type of event"):
        await talk.say("Hi", crash="in the middle")


async def test_a_script_that_is_too_short_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="The script has no more lines, but the model is asked: Hi"):
        await Conversation(desk, Script()).say("Hi")


class Decision(BaseModel):
    approved: bool


async def _decide(turn: TurnContext) -> Sequence[NodeEvent]:
    draft = await turn.ask("Draft")
    decision = await turn.ask_person(f"Send {draft}?", Decision)
    size = await turn.ask_customer("Which size?")
    return [turn.update(approved=decision.approved), turn.say(f"{draft} in {size}")]


async def _stumble(turn: TurnContext) -> Sequence[NodeEvent]:
    if turn.state.turn.attempt < 3:
        raise ConnectionError("away")
    return [turn.say("at last")]


def _how(state: Running) -> str:
    return "stumble" if state.thread.values.get("slow") else "decide"


async def _begin(_: TurnContext) -> Sequence[NodeEvent]:
    return ()


asking = Agent(
    Graph(
        "asking",
        "begin",
        [
            Node("begin", _begin),
            Node("decide", _decide),
            Node("stumble", _stumble, retry=RetryPolicy(5, first_delay=60)),
        ],
        {"begin": Branch(_how, {"decide": "decide", "stumble": "stumble"}), "decide": END, "stumble": END},
    )
)


async def test_questions() -> None:
    talk = Conversation(asking, Script("a shirt"))
    assert (await talk.say("I want something")).status == "waiting"
    (pending,) = await talk.pending()
    assert (pending.kind, pending.question) == ("question", "Send a shirt?")
    turn = await talk.answer({"approved": True}, crash="before QuestionAsked")
    assert turn.status == "crashed"
    assert (await talk.resume(crash="after TurnResumed")).status == "crashed"
    assert (await talk.resume()).answer == "Which size?"
    assert [one.kind for one in await talk.pending()] == ["customer"]
    turn = await talk.say("XL")
    assert (turn.status, turn.answer) == ("completed", "a shirt in XL")
    assert (await talk.thread()).values == {"approved": True}
    assert [prompt.is_question for prompt in talk.script.prompts] == [True]


async def test_delays_between_attempts_are_left_out() -> None:
    started = time.monotonic()
    talk = Conversation(asking, values={"slow": True})
    assert (await talk.say("go")).answer == "at last"
    assert time.monotonic() - started < 30


async def test_failures_and_retries() -> None:
    talk = Conversation(desk, Script(ValueError("broken"), ValueError("broken"), ValueError("broken"), "Hello."))
    turn = await talk.say("Hi")
    assert (turn.status, turn.reason) == ("failed", "node_failed")
    assert "broken" in (turn.detail or "")
    assert (await talk.retry()).answer == "Hello."


async def test_a_crash_while_a_person_is_asked() -> None:
    talk = Conversation(asking, Script("a shirt"))
    assert (await talk.say("go", crash="after QuestionAsked")).status == "crashed"
    assert (await talk.resume()).status == "waiting"
    assert [one.question for one in await talk.pending()] == ["Send a shirt?"]


async def test_a_person_settles_what_a_crash_left_open() -> None:
    @tool(if_unknown="ask_person")
    async def send(text: str) -> str:
        """Send a text."""
        SENT.append(text)
        return "sent"

    talk = Conversation(assistant("texts", tools=[send]), Script(call("send", text="hi"), lambda prompt: prompt.last))
    await talk.say("send it", crash="before ToolSucceeded")
    assert (await talk.resume()).status == "waiting"
    assert [one.because for one in await talk.pending()] == ["outcome_unknown"]
    assert (await talk.settle("It was sent.")).answer == "It was sent."
    assert SENT == ["hi"]


async def test_typed_lines() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        one, two = await turn.ask("one", output=Decision), await turn.ask("two", output=Decision)
        return [turn.say(f"{one.approved} {two.approved}")]

    agent = Agent(Graph("typed", "only", [Node("only", work)], {"only": END}))
    talk = Conversation(agent, Script({"approved": True}, Decision(approved=False)))
    assert (await talk.say("go")).answer == "True False"


async def test_tools_see_the_subject_and_the_actor() -> None:
    @tool(idempotent=True)
    async def whose(context: ToolContext) -> str:
        """Say whose thread it is."""
        return f"{context.subject} by {context.actor}"

    script = Script(call("whose"), lambda prompt: prompt.last)
    talk = Conversation(assistant("owner", tools=[whose]), script, subject="anna", actor="ben")
    assert (await talk.say("whose?")).answer == "anna by ben"


class TestNamedCrashPoints:
    SCRIPT = (call("refund", order="A"), call("look_up", order="A-17"), call("refund", order="B"), "Done.")

    @pytest.fixture
    def sender(self) -> Agent:
        @tool
        async def refund(order: str) -> str:
            """Refund an order."""
            SENT.append(order)
            return "refunded"

        return assistant("sender", tools=[refund, look_up])

    @pytest.mark.parametrize(
        ("crash", "sent", "outcomes"),
        [
            ("before ToolStarted of refund", [], []),
            ("before ToolStarted of refund #2", ["A"], ["succeeded", "succeeded"]),
            ("after ToolStarted of refund #2", ["A"], ["succeeded", "succeeded"]),
            ("before ToolSucceeded of refund #2", ["A", "B"], ["succeeded", "succeeded"]),
            ("after ToolSucceeded #2", ["A"], ["succeeded", "succeeded"]),
            ("after ToolRequested of refund #2", ["A"], ["succeeded", "succeeded"]),
            ("after ToolSucceeded of look_up", ["A"], ["succeeded", "succeeded"]),
            ("after NodeCompleted of execute_tool #2", ["A"], ["succeeded", "succeeded"]),
            ("after NodeCompleted of finalize_turn", ["A", "B"], ["succeeded"] * 3),
        ],
    )
    async def test_the_process_dies_there(
        self, sender: Agent, crash: str, sent: Sequence[str], outcomes: Sequence[str]
    ) -> None:
        talk = Conversation(sender, Script(*self.SCRIPT))
        turn = await talk.say("Two refunds", crash=crash)
        assert turn.status in {"crashed", "completed"}
        assert (SENT, [one.outcome for one in turn.tools if one.outcome]) == (sent, outcomes)

    async def test_calls_of_an_earlier_process_have_their_names_and_numbers_begin_again(self) -> None:
        talk = Conversation(desk, Script([call("look_up", order="A-17"), call("refund", order="A")], "Done."))
        assert (await talk.say("Money back")).status == "waiting"
        with pytest.raises(AssertionError, match=r"'after ToolSucceeded of refund #2'; its events are: .*"):
            await talk.grant(crash="after ToolSucceeded of refund #2")
        talk = Conversation(desk, Script([call("look_up", order="A-17"), call("refund", order="A")], "Done."))
        await talk.say("Money back")
        assert (await talk.grant(crash="after ToolSucceeded of refund")).status == "crashed"
        assert (await talk.resume()).answer == "Done."

    async def test_the_error_names_the_points_that_there_were(self) -> None:
        talk = Conversation(desk, Script(call("look_up", order="A-17"), "Done."))
        with pytest.raises(AssertionError, match="ToolStarted of look_up, ToolSucceeded of look_up, NodeCompleted of"):
            await talk.say("Where?", crash="after ToolStarted of refund")

    @pytest.mark.parametrize(
        ("crash", "error"),
        [
            ("after ToolStarted of refund #0", "write 'before' or 'after'"),
            ("after ToolStarted refund", "write 'before' or 'after'"),
            ("after ToolStarted of ", "write 'before' or 'after'"),
            ("after toolstarted", "write 'before' or 'after'"),
            ("after StateUpdated of refund", "StateUpdated is not of a tool or a node; leave out 'of refund'"),
        ],
    )
    async def test_a_point_that_cannot_be_is_refused(self, crash: str, error: str) -> None:
        with pytest.raises(ValueError, match=error):
            await Conversation(desk, Script("Hello.")).say("Hi", crash=crash)


async def _ask(turn: TurnContext) -> Sequence[NodeEvent]:
    return turn.request("refund", order="A")


async def _pay(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.run_tools()
    return [turn.say(f"paid by version {turn.agent.version}")]


def till(version: str, pays: str = "pay", *aliases: str, busy: Strategy = "reject") -> Agent:
    nodes = [Node("ask", _ask), Node(pays, _pay, aliases=aliases)]
    return Agent(Graph("till", "ask", nodes, {"ask": pays, pays: END}), tools=[refund], version=version, busy=busy)


class TestUpgrades:
    async def test_a_turn_keeps_its_version_while_it_is_deployed_and_the_next_one_has_the_new(self) -> None:
        talk = Conversation(till("1"))
        assert (await talk.say("Money back")).status == "waiting"
        talk.deploy(till("1"), till("2", "settle"))
        assert (await talk.grant()).answer == "paid by version 1"
        await talk.say("And again")
        assert (await talk.grant()).answer == "paid by version 2"

    async def test_a_crashed_turn_keeps_its_version_too(self) -> None:
        talk = Conversation(till("1"))
        assert (await talk.say("Money back", crash="after NodeCompleted of ask")).status == "crashed"
        talk.deploy(till("1"), till("2", "settle"))
        assert (await talk.resume()).status == "waiting"
        assert (await talk.grant()).answer == "paid by version 1"

    async def test_without_its_version_a_turn_follows_the_alias(self) -> None:
        talk = Conversation(till("1"))
        await talk.say("Money back")
        talk.deploy(till("2", "settle", "pay"))
        assert (await talk.grant()).answer == "paid by version 2"

    async def test_a_forgotten_alias_refuses_the_decision_as_the_server_does(self) -> None:
        talk = Conversation(till("1"))
        await talk.say("Money back")
        talk.deploy(till("2", "settle"))
        with pytest.raises(MissingNode, match=r"the node 'pay', which the agent 'till'.*aliases="):
            await talk.grant()
        talk.deploy(till("3", "settle", "pay"))
        assert (await talk.grant()).answer == "paid by version 3"

    async def test_granted_work_at_a_missing_node_is_stuck_until_a_version_has_the_node(self) -> None:
        talk = Conversation(till("1"))
        await talk.say("Money back")
        await talk.grant(crash="before ToolStarted of refund")
        talk.deploy(till("2", "settle"))
        turn = await talk.resume()
        assert (turn.status, SENT) == ("stuck", [])
        assert "aliases=('pay',)" in (turn.detail or "")
        talk.deploy(till("2", "settle", "pay"))
        assert (await talk.resume()).answer == "paid by version 2"
        assert SENT == ["A 1"]

    async def test_a_turn_without_work_to_lose_fails_and_a_retry_goes_on_with_an_alias(self) -> None:
        talk = Conversation(till("1"))
        await talk.say("Money back", crash="after NodeCompleted of ask")
        talk.deploy(till("2", "settle"))
        turn = await talk.resume()
        assert (turn.status, turn.reason) == ("failed", "graph_changed")
        with pytest.raises(MissingNode):
            await talk.retry()
        talk.deploy(till("3", "settle", "pay"))
        assert (await talk.retry()).answer == "paid by version 3"

    async def test_a_queued_message_keeps_the_version_of_its_arrival(self) -> None:
        talk = Conversation(till("1", busy="enqueue"))
        await talk.say("Money back")
        await talk.say("And for B")
        talk.deploy(till("1"), till("2", "settle"))
        assert (await talk.grant()).status == "waiting"
        assert (await talk.grant()).answer == "paid by version 1"
        assert len(SENT) == 2

    async def test_what_cannot_be_deployed_is_refused(self) -> None:
        talk = Conversation(till("1"))
        with pytest.raises(ValueError, match="name at least one agent"):
            talk.deploy()
        with pytest.raises(ValueError, match="the conversation is with the agent 'till', not with 'desk'"):
            talk.deploy(till("2"), desk)
        with pytest.raises(TypeError, match=r"must be an Agent, as in assistant\(...\) or .*, not Graph"):
            talk.deploy(till("2").graph)  # type: ignore[arg-type]


def test_a_conversation_is_with_an_agent() -> None:
    with pytest.raises(TypeError, match=r"must be an Agent, .*, not a plain function"):
        Conversation(till)  # type: ignore[arg-type]


async def test_arguments_that_do_not_fit_are_refused_as_by_the_server() -> None:
    talk = Conversation(desk, Script(call("refund", order="A-17"), "Done."))
    await talk.say("Money back")
    with pytest.raises(InvalidInput, match="amount"):
        await talk.grant(amount="much")
    assert (await talk.grant(amount=2)).answer == "Done."
