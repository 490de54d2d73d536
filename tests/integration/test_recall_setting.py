"""Whether older messages are recalled is a setting."""

import pytest

from tests.support.http import running_api
from tests.support.reading import talk

OLD = "The marmalade has the code JAM-77."
SINCE = ["Tell me about cats, dogs and birds, please. " * 6 for _ in range(8)]
QUESTION = "What was JAM-77?"


@pytest.mark.parametrize("recall", [True, False])
async def test_older_messages_are_shown_again_unless_that_is_turned_off(*, recall: bool) -> None:
    async with running_api(database_url="memory://", context_window_limit=700, recall=recall) as api:
        thread = await talk(api, OLD, *SINCE, QUESTION)
        events = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 500})).json()["items"]

    (*_, shown) = [event["data"] for event in events if event["type"] == "ContextAssembled"]
    assert any(event["type"] == "HistoryCompacted" for event in events)
    assert bool(shown.get("recalled")) is recall
