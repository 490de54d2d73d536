"""Talk for twenty turns with a real model that calls tools, over HTTP, and count failures of ours: `make real-model`.

llama.cpp's server runs SmolLM2 with 135 million parameters, which fits into every machine and is silly: what it says
does not matter here. Each request has to be accepted, by a chat template that is as strict as Mistral's, and each turn
has to complete. The exit status is 1 if one did not, or if tools were called in fewer turns than in FEWEST.
"""

import asyncio
import pathlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from infrastructure.settings import CHECKOUT
from tests.e2e.server_process import threadfold

PYTHON = CHECKOUT / ".venv-model" / "bin" / "python"
SERVER = pathlib.Path(__file__).with_name("llama_server.py")
SERVING = "Serving at "
FEWEST = 8
PATIENCE = 600.0
"""Seconds that a turn may take: on a busy machine the model reads some twenty tokens a second."""

MODELS = """
chain = ["smollm2"]

[providers.llama]
endpoint = "{endpoint}/v1"
first_byte = 300
silence = 120
total = 600

[models.smollm2]
provider = "llama"
model = "smollm2"
context_window = {window}
max_answer = 60
"""

WINDOW = 1200
"""Tokens of context: so few that the history is compacted on the way."""

USER = (
    "Hello, my name is Ada.",
    "What is the weather in Paris?",
    "What is 12 plus 30?",
    "Thank you.",
    "What time is it?",
    "What is the weather in Oslo?",
    "What is 100 plus 250?",
    "I like tea more than coffee.",
    "What is the weather in Reykjavik?",
    "What is 7 plus 8?",
    "What is my name?",
    "What is the weather in Lima?",
    "Tell me a joke.",
    "What is 19 plus 23?",
    "What is the weather in Nairobi, and what time is it?",
    "Add 5 and 7.",
    "What is the weather in Quito?",
    "What is 1000 plus 1?",
    "Do I like tea or coffee?",
    "What time is it now? Goodbye!",
)


@asynccontextmanager
async def llama_server(log: pathlib.Path) -> AsyncIterator[str]:
    """Run the model's server, and give its address. It ends when its standard input does."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-u", SERVER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while line := (await process.stdout.readline()).decode():
            if line.startswith(SERVING):
                break
        else:
            raise RuntimeError(f"The model's server did not start:\n{_end_of(log)}")
        rest = asyncio.create_task(process.stdout.read())
        yield line.removeprefix(SERVING).strip()
        rest.cancel()
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


def _end_of(log: pathlib.Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def happened(api: httpx.AsyncClient, thread: str) -> list[dict[str, Any]]:
    """Read all events of the thread."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        params = {"limit": "1000", **({"cursor": cursor} if cursor else {})}
        page = (await api.get(f"/v1/threads/{thread}/events", params=params)).json()
        found += page["items"]
        cursor = page.get("next_cursor")
        if not cursor:
            return found


def row(number: int, said: str, turn: Mapping[str, Any], seconds: float) -> str:
    """Describe a turn on one line."""
    asked = [call for message in turn["messages"] for call in message.get("tool_calls", ())]
    calls = ", ".join(f"{call['name']}({call['arguments']})" for call in asked)
    usage = turn["usage"]
    outcome = turn["status"] + (f" ({turn['reason']})" if turn["reason"] else "")
    tokens = f"{usage['prompt_tokens']}+{usage['completion_tokens']} tokens in {usage['calls']} calls, {seconds:.0f} s"
    answer = " ".join((turn["answer"] or "").split())[:60]
    return f"{number:2}  {outcome:20}  {tokens:38}  {said[:32]:32}  {calls[:44]:44}  {answer}"


async def converse(api: httpx.AsyncClient, thread: str) -> tuple[int, int]:
    """Say everything; return how many turns did not complete, and in how many a tool ran well."""
    failed = with_tools = 0
    for number, said in enumerate(USER, 1):
        began = time.monotonic()
        response = await api.post(f"/v1/threads/{thread}/turns", params={"wait": "true"}, json={"user_input": said})
        if response.status_code != httpx.codes.OK:
            failed += 1
            print(f"{number:2}  HTTP {response.status_code}: {response.text[:200]}", flush=True)
            continue
        turn = response.json()
        print(row(number, said, turn, time.monotonic() - began), flush=True)
        if turn["status"] != "completed":
            failed += 1
            print(f"    {turn['detail']}", flush=True)
        with_tools += any(message.get("outcome") == "succeeded" for message in turn["messages"])
    return failed, with_tools


async def main() -> int:
    """Run it all; return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        async with llama_server(work / "llama.log") as endpoint:
            (work / "models.toml").write_text(MODELS.format(endpoint=endpoint, window=WINDOW))
            settings = {"DATABASE_URL": "memory://", "AGENTS": "tests.real_model.agent:helper"}
            server = threadfold(work, MODELS=str(work / "models.toml"), **settings)
            async with server, httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as api:
                opened = await api.post("/v1/threads", json={"graph": "helper"})
                thread = opened.raise_for_status().json()["thread_id"]
                failed, with_tools = await converse(api, thread)
                events = await happened(api, thread)
    refused = [event["data"]["error"] for event in events if event["type"] == "ModelFailed"]
    for error in refused:
        print(f"A call of the model failed: {error}")
    compacted = sum(event["type"] == "HistoryCompacted" for event in events)
    print(
        f"{len(USER)} turns: {failed} did not complete, {with_tools} with tools; "
        f"{len(refused)} calls of the model failed; the history was compacted {compacted} times"
    )
    return 1 if failed or refused or with_tools < FEWEST else 0


sys.exit(asyncio.run(main()))
