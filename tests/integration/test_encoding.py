"""The encoding that tokens are counted with: loading it takes a quarter of a second."""

import asyncio
import threading

import pytest
import tiktoken

from infrastructure.token_counter import TiktokenCounter
from tests.support.http import running_api


async def test_the_encoding_is_loaded_before_the_first_turn_and_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded_by: list[threading.Thread] = []
    load = TiktokenCounter._load

    def noted(counter: TiktokenCounter) -> tiktoken.Encoding:
        loaded_by.append(threading.current_thread())
        return load(counter)

    monkeypatch.setattr(TiktokenCounter, "_load", noted)
    async with running_api(database_url="memory://"):
        async with asyncio.timeout(60):
            while not loaded_by:
                await asyncio.sleep(0.01)
    assert threading.main_thread() not in loaded_by
