"""Tests of agents without a server, a database or a model: milliseconds each.

```python
from threadfold.testing import Conversation, Script, call


async def test_a_refund_needs_a_person() -> None:
    talk = Conversation(desk, Script(call("refund", order="A-17"), "Done."))
    turn = await talk.say("I want my money back")
    assert turn.status == "waiting"
    assert (await talk.grant()).answer == "Done."
```

The runtime is the real one, on stores in memory. docs/agents.md has recipes.
"""

from threadfold.testing.conversation import Conversation
from threadfold.testing.results import Pending, ToolResult, TurnResult
from threadfold.testing.script import Call, Line, Prompt, Script, call

__all__ = ["Call", "Conversation", "Line", "Pending", "Prompt", "Script", "ToolResult", "TurnResult", "call"]
