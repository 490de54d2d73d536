"""Answers that are not stored yet, in Redis."""

import logging

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from domain.errors import StoreUnavailable
from domain.ids import ThreadId
from domain.ports.log import Append

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Append).decode


class RedisHotStore:
    """A `HotStore`. What survives a crash of Redis depends on its configuration."""

    def __init__(self, redis: Redis, database: str) -> None:
        """The caller closes the client. `database` separates the keys of several databases."""
        self._redis = redis
        self._prefix = f"threadfold:{database}:hot:"

    async def put(self, append: Append) -> None:
        try:
            await self._redis.set(self._key(append.thread_id), _encode(append))
        except (RedisError, OSError) as error:
            raise StoreUnavailable("Redis does not store the answer.") from error

    async def get(self, thread_id: ThreadId) -> Append | None:
        try:
            held = await self._redis.get(self._key(thread_id))
        except (RedisError, OSError) as error:
            raise StoreUnavailable("Redis does not answer.") from error
        return _decode(held) if held is not None else None

    async def drop(self, thread_id: ThreadId) -> None:
        try:
            await self._redis.delete(self._key(thread_id))
        except (RedisError, OSError) as error:  # a process that finds it later sees that the log has it
            _log.warning("A stored answer of thread %s stays in Redis for now: %r", thread_id, error)

    def _key(self, thread_id: ThreadId) -> str:
        return f"{self._prefix}{thread_id}"
