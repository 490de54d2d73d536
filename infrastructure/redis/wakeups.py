"""Wake-ups over Redis' publish and subscribe."""

from redis.asyncio import Redis

from domain.application.background_tasks import BackgroundTasks
from infrastructure.wakeups import CHANNEL, BatchedWakeups

MAX_PAYLOAD_BYTES = 500_000
"""Bytes of a message."""


class RedisWakeups(BatchedWakeups):
    """A `Wakeups` between all processes with the same Redis and the same database."""

    def __init__(self, redis: Redis, database: str, background: BackgroundTasks | None = None) -> None:
        """The caller closes the client. `database` separates the channels of several databases."""
        self._redis = redis
        self._channel = f"{CHANNEL}:{database}"
        super().__init__(MAX_PAYLOAD_BYTES, background)

    async def publish(self, payloads: list[str]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for payload in payloads:
                pipeline.publish(self._channel, payload)
            await pipeline.execute()

    async def listen_until_lost(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(self._channel)
            try:
                self.listening.set()
                async for message in subscription.listen():
                    self.receive(message["data"])
            finally:
                self.listening.clear()
