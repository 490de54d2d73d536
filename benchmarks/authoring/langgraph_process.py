"""The LangGraph desk as a process: a line of JSON on stdin is a request, a line on stdout how the turn went.

`{"say": text}`, `{"grant": true}`, or `{"resume": true}` after a crash. LangGraph does not look for interrupted turns
by itself: the application has to know their threads, and call the graph again.
"""

import json
import os
import sys
from typing import Any

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.types import Command

import benchmarks.authoring.deadly  # noqa: F401
from benchmarks.authoring.langgraph_desk import desk

CONFIG: Any = {"configurable": {"thread_id": "t"}}


def main() -> None:
    """Serve until the end of input."""
    with PostgresSaver.from_conn_string(os.environ["DATABASE_URL"]) as saver:
        saver.setup()
        graph = desk(saver)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            request, waits = json.loads(line), bool(graph.get_state(CONFIG).interrupts)
            if "resume" in request:
                given: Any = None
            elif waits:
                given = Command(resume=request.get("say", request.get("grant")))
            else:
                given = {"customer": "mia", "messages": [("user", request["say"])]}
            graph.invoke(given, CONFIG, durability="sync")
            state = graph.get_state(CONFIG)
            asked = [interrupt.value for interrupt in state.interrupts]
            answer = asked[0] if asked else state.values["messages"][-1].text
            print(json.dumps({"waits": bool(asked), "answer": answer}), flush=True)


if __name__ == "__main__":
    main()
