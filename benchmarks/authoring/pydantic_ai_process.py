"""The pydantic-ai desk as a process, with the protocol of `langgraph_process`. DBOS resumes workflows as it starts."""

import asyncio
import json
import os
import sys
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID, error

import benchmarks.authoring.deadly  # noqa: F401
from benchmarks.authoring.pydantic_ai_desk import desk

WORKFLOW = "t"


async def outcome(seen: int) -> dict[str, Any]:
    """Wait until the desk has said more than `seen` texts, or waits for an approval."""
    while True:
        try:
            async for said in DBOS.read_stream_async(
                WORKFLOW, "said", offset=seen, polling_interval_sec=0.05, timeout_seconds=0.5
            ):
                return {"waits": said.endswith("?"), "answer": said, "seen": seen + 1}
        except error.DBOSStreamTimeoutError:
            if approval := await DBOS.get_event_async(WORKFLOW, "approval", 0):
                return {"waits": True, "answer": approval, "seen": seen}


async def main() -> None:
    """Serve until the end of input."""
    config: DBOSConfig = {
        "name": "desk",
        "system_database_url": os.environ["DATABASE_URL"],
        "application_version": "1",
        "run_admin_server": False,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        if "say" in request:
            if not await DBOS.get_workflow_status_async(WORKFLOW):
                with SetWorkflowID(WORKFLOW):
                    await DBOS.start_workflow_async(desk, "mia")
            await DBOS.send_async(WORKFLOW, request["say"], "customer")
        elif "grant" in request:
            await DBOS.send_async(WORKFLOW, request["grant"], "approval")
            while await DBOS.get_event_async(WORKFLOW, "approval", 0):
                await asyncio.sleep(0.05)
        print(json.dumps(await outcome(request["seen"])), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
