"""Groups of writes go on after a failure of their own."""

import asyncio
from collections.abc import Sequence

import pytest

from infrastructure.postgres.batching import Groups


async def test_a_group_with_too_few_answers_fails_and_the_next_one_is_written() -> None:
    async def write(items: Sequence[int]) -> Sequence[int]:
        return items if items[0] else []

    groups = Groups[int, int](write, "numbers", most=10, limit=10)
    async with asyncio.timeout(20):
        with pytest.raises(ValueError, match="zip"):
            await groups.put(0)
        assert await groups.put(7) == 7
        await groups.close()
