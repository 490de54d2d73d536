"""Talking to an agent in the terminal: through a pipe, and with a person at the keys."""

import re
import socket
from pathlib import Path
from typing import Any

from tests.fakes.openai_server import Cut, OpenAIServer, Pause, chunk, events, refusal, stream
from tests.support.command import Done, terminal, threadfold

WHOLE = "Fair winds ahead."

EXCHANGE = "tests.support.agents:exchange"


def thread_in(text: str) -> str:
    found = re.search(r"Thread ([0-9a-f-]{36})", text)
    assert found, text
    return found[1]


async def chat(lines: str, *arguments: str, **settings: object) -> Done:
    return await threadfold("chat", *arguments, stdin=lines.encode(), **settings)


async def test_a_piped_line_is_answered_once(database_url: str) -> None:
    done = await chat("hi there\n", database_url=database_url)

    assert (done.status, done.err) == (0, "")
    thread = thread_in(done.out)
    kept = (await threadfold("threads", "state", thread, "--json", database_url=database_url)).json
    said = kept["window"][-1]["content"]
    assert done.out.count(said) == 1
    assert done.out.endswith(f"{said}\n")


async def test_tools_are_shown_as_they_run() -> None:
    done = await chat('/calculate 2+3\n/calculate {"expression": "1/0"}\n', database_url="memory://")

    assert '→ calculate {"expression":"2+3"}\n← 5\n' in done.out
    assert '→ calculate {"expression":"1/0"}\n← error: ' in done.out
    assert done.status == 0


async def test_a_last_line_without_its_end_counts_and_exit_leaves() -> None:
    done = await chat("\n  \n/calculate 1+1\n/exit\n/calculate 5*5", database_url="memory://")
    last = await chat("/calculate 5*5", database_url="memory://")

    assert ("← 2\n" in done.out, "← 25\n" in done.out, done.status) == (True, False, 0)
    assert "← 25\n" in last.out


async def test_bytes_that_are_no_text_and_escape_sequences_do_no_harm() -> None:
    done = await threadfold("chat", stdin=b"\xff\xfe \x1b[31mred\x07 \xf0\x9f\x90\xa2\n", database_url="memory://")

    assert done.status == 0
    assert "\U0001f422" in done.out
    assert "\x1b" not in done.out
    assert "\x07" not in done.out


async def test_a_thread_is_gone_on_with(database_url: str) -> None:
    first = await chat("hello\n", database_url=database_url)
    thread = thread_in(first.out)

    second = await chat("again\n", "--thread", thread, database_url=database_url)

    assert f"Thread {thread} (1 turn, last event at " in second.out
    kept = await threadfold("threads", "show", thread, "--json", database_url=database_url)
    assert kept.json["turns"] == 2


async def test_unknown_agents_and_threads_are_refused_at_once() -> None:
    agent = await chat("hi\n", "--graph", "nobody", database_url="memory://")
    thread = await chat("hi\n", "--thread", "018f0000-0000-7000-8000-000000000000", database_url="memory://")

    assert (agent.status, thread.status) == (1, 1)
    assert agent.err == "Error: Unknown graph 'nobody'; known graphs: assistant. AGENTS names others to load.\n"
    assert thread.err.startswith("Error: There is no thread 018f0000-")
    assert "POST" not in thread.err


async def test_nobody_says_anything_and_no_thread_is_opened(database_url: str) -> None:
    assert (await chat("", database_url=database_url)).status == 0

    assert (await threadfold("threads", "list", "--json", database_url=database_url)).json["items"] == []


async def test_half_an_answer_is_withdrawn_and_followed_by_the_whole_one() -> None:
    half = events(chunk("Foul wea"), Pause(0.2), Cut())
    async with OpenAIServer(half, otherwise=stream("Fair ", "winds ", "ahead.")) as model:
        done = await chat("How is it?\n", database_url="memory://", llm_endpoint=model.endpoint)

    said = done.out[done.out.index("Foul wea") :]
    assert said.startswith("Foul wea\n(The answer above was not finished and is withdrawn.)\n")
    assert "generate_response failed (AnswerCut: " in said
    assert said.endswith(f"s\n{WHOLE}\n")
    assert done.status == 0


async def test_tools_that_run_at_the_same_time_are_told_apart() -> None:
    asked = [
        {
            "index": 0,
            "id": "a",
            "type": "function",
            "function": {"name": "calculate", "arguments": '{"expression":"6*7"}'},
        },
        {"index": 1, "id": "b", "type": "function", "function": {"name": "current_time", "arguments": "{}"}},
    ]
    asking = events(chunk("Let me see."), chunk(tool_calls=asked), chunk(finish="tool_calls"), "[DONE]")
    async with OpenAIServer(asking, otherwise=stream(WHOLE)) as model:
        done = await chat("Six times seven?\n", database_url="memory://", llm_endpoint=model.endpoint)

    assert 'Let me see.\n→ calculate {"expression":"6*7"}\n→ current_time {}\n← ' in done.out
    assert "\n← calculate: 42\n" in done.out
    assert "\n← current_time: 20" in done.out
    assert done.out.endswith(f"{WHOLE}\n")


async def test_a_failed_turn_is_told_in_a_line_and_the_next_one_runs() -> None:
    async with OpenAIServer(refusal(401, "wrong key"), otherwise=stream(WHOLE)) as model:
        done = await chat("One\nTwo\n", database_url="memory://", llm_endpoint=model.endpoint)

    assert "The turn failed. generate_response: ModelRefused: " in done.out
    assert done.out.endswith(f"{WHOLE}\n")
    assert (done.status, done.err) == (1, "")


async def test_an_answer_that_is_not_whole_or_none_is_told_so() -> None:
    cut = events(chunk("Fair wi"), chunk(finish="length"), "[DONE]")
    empty = events(chunk(" "), chunk(finish="stop"), "[DONE]")
    async with OpenAIServer(cut, empty, stream(WHOLE), otherwise=empty) as model:
        done = await chat("One\nTwo\nThree\n", database_url="memory://", llm_endpoint=model.endpoint)

    assert "Fair wi\nThe turn completed, but the answer reached its longest and is cut off.\n" in done.out
    assert f"{WHOLE}\n" in done.out
    assert "The turn failed. generate_response: AnswerEmpty: The model was asked again, and stopped " in done.out
    assert (done.status, done.err) == (1, "")


async def test_an_endpoint_where_nobody_listens_is_told_with_what_to_check() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = await chat("One\n", database_url="memory://", llm_endpoint=endpoint)

    assert done.out.endswith("cannot be reached: All connection attempts failed. Check LLM_ENDPOINT.\n")
    assert (done.status, done.err) == (1, "")


async def test_a_person_sees_text_as_it_comes_and_leaves_by_ctrl_d() -> None:
    slow = events(chunk("Fair "), Pause(1.5), chunk("winds ahead."), chunk(finish="stop"), "[DONE]")
    async with (
        OpenAIServer(slow) as model,
        terminal("chat", database_url="memory://", llm_endpoint=model.endpoint) as person,
    ):
        await person.until("> ")
        person.type("How is it?\n")
        early = await person.until("Fair ")
        await person.until("winds ahead.\n> ")
        person.type("\x04")
        assert await person.ended() == 0

    assert "winds" not in early
    assert person.screen.count("Fair winds ahead.") == 1


async def test_ctrl_c_at_the_prompt_leaves() -> None:
    async with terminal("chat", database_url="memory://") as person:
        await person.until("> ")
        person.type("I was about to")
        await person.until("about to")  # readline loses a signal that comes while it begins to read
        person.type("\x03")

        assert await person.ended() == 0

    assert "Traceback" not in person.screen


async def test_ctrl_c_in_a_turn_leaves_it_to_be_gone_on_with(database_url: str) -> None:
    endless = events(chunk("Once "), Pause(60))
    async with OpenAIServer(endless, otherwise=stream(WHOLE)) as model:
        settings = {"database_url": database_url, "llm_endpoint": model.endpoint}
        async with terminal("chat", **settings) as person:
            await person.until("> ")
            person.type("Tell me\n")
            await person.until("Once ")
            person.type("\x03")
            await person.until("Ctrl-C again does not wait.")
            person.type("\x03")
            assert await person.ended() == 130
        thread = thread_in(person.screen)
        assert f"at its node generate_response: in a server, or in threadfold chat --thread {thread}" in person.screen
        assert "Traceback" not in person.screen

        left = await threadfold("threads", "state", thread, "--json", database_url=database_url)
        assert (left.json["status"], left.json["turn"]["node"]) == ("running", "generate_response")

        async with terminal("chat", "--thread", thread, **settings) as person:
            await person.until("A turn is at its node generate_response")
            person.type("\x03")
            assert await person.ended() == 130


async def test_a_lost_turn_is_taken_up_in_its_own_thread_only(tmp_path: Path) -> None:
    endless = events(chunk("Once "), Pause(60))
    async with OpenAIServer(endless, endless, otherwise=stream(WHOLE)) as model:
        settings: dict[str, Any] = {"data_dir": tmp_path, "llm_endpoint": model.endpoint}
        lost = []
        for _ in range(2):
            async with terminal("chat", **settings) as person:
                await person.until("> ")
                person.type("Tell me\n")
                await person.until("Once ")
                person.type("\x03")
                await person.until("Ctrl-C again does not wait.")
                person.type("\x03")
                assert await person.ended() == 130
            lost.append(thread_in(person.screen))

        done = await chat("", "--thread", lost[0], **settings)
        states = [await threadfold("threads", "state", thread, "--json", **settings) for thread in lost]

    assert done.out.endswith(f"{WHOLE}\n")
    assert [state.json["status"] for state in states] == ["idle", "running"]


async def test_a_question_to_the_customer_is_answered_by_the_next_line() -> None:
    done = await chat(
        "Another size\nA-17\nnever read\n", "--graph", "exchange", database_url="memory://", agents=EXCHANGE
    )

    assert "Which order?\n" in done.out
    assert "A person has to answer, and there is no terminal to ask at: Exchange A-17?" in done.out + done.err
    assert "never read" not in done.out + done.err
    assert done.err.count("\n") <= 1
    assert done.status == 1


async def test_a_person_answers_at_the_terminal() -> None:
    settings = {"database_url": "memory://", "agents": EXCHANGE}
    async with terminal("chat", "--graph", "exchange", **settings) as person:
        await person.until("> ")
        person.type("Another size\n")
        await person.until("Which order?")
        await person.until("> ")
        person.type("A-17\n")
        await person.until("Answer: ")
        person.type("maybe\n")
        await person.until("That is not JSON.")
        await person.until("Answer: ")
        person.type('{"approved": "perhaps"}\n')
        await person.until("answer.approved")
        await person.until("Answer: ")
        person.type('{"approved": true, "size": 3}\n')
        await person.until("A-17 in 3")
        await person.until("> ")
        person.type("\x04")
        assert await person.ended() == 0
