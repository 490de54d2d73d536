"""The composition root: the only place where adapters are chosen and joined."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from api.runtime.isolation import IsolatedProcesses
from api.runtime.projector import projected_beside
from api.runtime.stores import Log, SystemClock, open_log
from domain.agents.agent import Agent
from domain.agents.assistant import assistant
from domain.agents.registry import Agents
from domain.application.audit.sealer import Sealer
from domain.application.background_tasks import BackgroundTasks
from domain.application.budget.limits_cache import LimitsCache
from domain.application.budget.reservations import Reservations
from domain.application.budget.turn_budget import BudgetServices
from domain.application.recall.embed import MessageEmbedder
from domain.application.recall.search import MessageSearch, SemanticSearch
from domain.application.streaming.broadcast import Broadcast
from domain.application.streaming.feed import Feed
from domain.application.thread_repository import ThreadRepository
from domain.application.turns.prompt_parts import PromptParts
from domain.application.turns.runner import TurnRunner
from domain.application.turns.services import TurnServices
from domain.application.turns.worker import Worker
from domain.budget.prices import Prices
from domain.ids import SLICES, Slice, WorkerId
from domain.ports.read_models import GroupId
from domain.ports.recall import VectorStore
from infrastructure.agent_loader import load_agents
from infrastructure.fingerprint import fold_fingerprint
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.models.catalogue import load_catalogue, with_asked_for
from infrastructure.models.openai.embeddings import OpenAIEmbedder
from infrastructure.models.providers import check_inside, open_models
from infrastructure.settings import CHECKOUT, BadSetting, Settings
from infrastructure.signing import Ed25519Verifier, signer_of
from infrastructure.token_counter import TiktokenCounter
from infrastructure.tools import builtin_tools
from projections.engine.runner import MIN_REST_S, ProjectionRunner
from projections.registry import PROJECTIONS

_log = logging.getLogger(__name__)

PROJECTIONS_GRACE_S = 2.0
"""Seconds that projections have to write the batch in progress when a process ends."""

ALL_SLICES = [Slice(number) for number in range(SLICES)]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """All parts of a process of Threadfold, connected."""

    settings: Settings
    agents: Agents
    repository: ThreadRepository
    turns: TurnRunner
    worker: Worker
    """Runs turns inside of its `working()` only."""
    sealer: Sealer
    """Makes seals only while the runtime is `working`, and only with SIGNING_KEY."""
    log: Log
    runner: ProjectionRunner
    """Runs inside of `working()` only, for the slices of the worker's shards."""
    prices: Prices
    reservations: Reservations
    """Reserves what model calls may take of their tenants' limits."""
    feed: Feed
    clock: SystemClock
    new_id: Callable[[], UUID]
    recall: MessageSearch
    indexer: MessageEmbedder | None = None
    """Embeds messages inside of `working()`; None without EMBEDDING_ENDPOINT or RECALL."""
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is stopping: requests that wait for something end then."""

    def stop_waiting(self) -> None:
        """Let requests that wait for something end, since the process is stopping."""
        self.stopping.set()
        self.turns.services.broadcast.rouse()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run turns and projections, seal the log and embed messages until the block ends."""
        async with (
            self.worker.working(),
            self.projecting(),
            self.background.running("sealer", self.sealer.run) if self.sealer.signer else nullcontext(),
            self.background.running("embeddings", self.indexer.run) if self.indexer else nullcontext(),
            self.counting(),
        ):
            yield

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Load the tokens' encoding in a thread: the first turn would block the event loop for half a second."""
        loading = asyncio.create_task(asyncio.to_thread(self.turns.services.tokens.count, ""), name="encoding")
        try:
            yield
        finally:
            await asyncio.gather(loading, return_exceptions=True)  # the next count raises the error again

    @asynccontextmanager
    async def projecting(self) -> AsyncIterator[None]:
        """Run projections until the block ends: in another process, or here if PROJECTIONS or memory:// says so."""
        if self.settings.projections == "inside" or self.log.url is None:
            async with self.projecting_here():
                yield
            return
        await self.log.models.register([projection.shape for projection in self.runner.projections])
        async with projected_beside(self.settings, self.log.url, self.worker.id, self.background):
            yield

    @asynccontextmanager
    async def projecting_here(self) -> AsyncIterator[None]:
        """Run projections in this process until the block ends."""
        await self.log.models.register([projection.shape for projection in self.runner.projections])
        running = self.background.start("projections", self.runner.run)
        try:
            yield
        finally:
            self.runner.stop()
            await self.background.stop(running, grace=PROJECTIONS_GRACE_S)

    async def build(self, group: GroupId) -> None:
        """Build a group in this call, and let it serve: for commands without a worker. Raises `NotRebuildable`."""
        builder = replace(self.runner, held=lambda: ALL_SLICES)
        while any(i.group == group and i.status == "building" for i in await self.log.models.instances()):
            if not await builder.step():
                await asyncio.sleep(MIN_REST_S)

    async def catch_up(self) -> None:
        """Bring the read models up to date in this call, whether or not a worker does so as well."""
        await self.log.models.register([projection.shape for projection in self.runner.projections])
        for group in await self.log.models.groups():
            while await self.runner.advance(group.id, ALL_SLICES):
                pass

    def sandbox(self) -> ThreadRepository:
        """Return an empty repository in memory, for a replay."""
        return ThreadRepository(MemoryEventStore(), MemorySnapshotStore(), self.clock, fingerprint="sandbox")


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Connect what the settings name, and disconnect it when the block ends.

    Raises `BadSetting`, `UnfitDatabase`, and the driver's errors if there is no database.
    """
    async with AsyncExitStack() as stack:
        clock, background = SystemClock(), BackgroundTasks()
        agents, prices = _agents(settings, clock), _prices(settings)
        asked_for = {f"{agent.name} {agent.version}".strip(): agent.model for agent in agents.all()}
        catalogue = with_asked_for(load_catalogue(settings), asked_for)
        tokens = TiktokenCounter(catalogue.policy.usual.model)
        models = open_models(catalogue, tokens, air_gapped=settings.air_gapped)
        stack.push_async_callback(models.close)
        if settings.air_gapped and settings.embedding_endpoint:
            check_inside("EMBEDDING_ENDPOINT", urlsplit(settings.embedding_endpoint).hostname or "")

        log = await open_log(settings, stack, clock, background)
        repository = ThreadRepository(
            log.events, log.snapshots, clock, fingerprint=fold_fingerprint(), snapshot_every=settings.snapshot_every
        )
        broadcast = Broadcast(log.wakeups)
        await stack.enter_async_context(background.running("signals", partial(broadcast.keep_up, log.events)))

        reservations = Reservations(log.ledger, LimitsCache(log.ledger, clock), repository, prices)
        recall = MessageSearch(log.finder, _semantic_search(settings, log.vectors, stack))
        services = TurnServices(
            repository=repository,
            models=models,
            tokens=tokens,
            broadcast=broadcast,
            context_window=settings.context_window_limit,
            account=BudgetServices(reservations, prices, clock, uuid7),
            prompt_parts=PromptParts(tokens, log.texts),
            hot=log.hot,
            recall=recall if settings.recall else None,
        )
        turns = TurnRunner(services, agents)
        stack.push_async_callback(turns.close)
        worker = Worker(
            turns=turns,
            leases=log.leases,
            wakeups=log.wakeups,
            suspects=log.suspects,
            loans=log.loans,
            id=WorkerId(uuid7()),
            name=f"{socket.gethostname()}:{os.getpid()}",
            lease=settings.lease_seconds,
            reservations=reservations,
            isolation=IsolatedProcesses(log.url, settings.lease_seconds) if log.url else None,
            background=background,
        )

        runner = ProjectionRunner(
            repository=repository,
            models=log.models,
            projections=PROJECTIONS,
            prices=prices,
            clock=clock,
            held=worker.slices,
        )
        broadcast.wake(runner.wake)
        indexer = None
        if recall.meaning and settings.recall:
            indexer = MessageEmbedder(repository, recall.meaning, worker.slices)
            broadcast.wake(indexer.wake)
        key = settings.signing_key
        sealer = Sealer(
            events=log.events,
            seals=log.seals,
            clock=clock,
            verifier=Ed25519Verifier(),
            signer=signer_of(key.get_secret_value(), CHECKOUT) if key else None,
            every=settings.seal_every,
        )
        yield Runtime(
            settings=settings,
            agents=agents,
            repository=repository,
            turns=turns,
            worker=worker,
            sealer=sealer,
            log=log,
            runner=runner,
            prices=prices,
            reservations=reservations,
            feed=Feed(log.events, broadcast),
            clock=clock,
            new_id=uuid7,
            recall=recall,
            indexer=indexer,
            background=background,
        )


def _semantic_search(settings: Settings, vectors: VectorStore | None, stack: AsyncExitStack) -> SemanticSearch | None:
    if settings.embedding_endpoint is None or vectors is None:
        return None
    key = settings.embedding_api_key.get_secret_value() if settings.embedding_api_key else None
    embedder = OpenAIEmbedder(
        settings.embedding_endpoint, key, settings.embedding_model, past_proxies=settings.air_gapped
    )
    stack.push_async_callback(embedder.close)
    return SemanticSearch(embedder, vectors)


def _prices(settings: Settings) -> Prices:
    try:
        return msgspec.json.decode(settings.prices.read_bytes(), type=Prices)
    except (msgspec.MsgspecError, OSError) as error:
        raise BadSetting(f"PRICES={settings.prices}: {error}. See infrastructure/prices.json for the form.") from error


def _agents(settings: Settings, clock: SystemClock) -> Agents:
    tools = builtin_tools(clock.now, settings.knowledge_dir)
    builtin = assistant(tools=tools, slash_commands=True)
    listed: list[Agent] = []
    for place, agent in zip(settings.agents, load_agents(settings.agents), strict=True):
        if agent.name == builtin.name:
            raise BadSetting(
                f"AGENTS={place}: there is another agent named {agent.name!r}, the built-in one. Give this one its own "
                "name."
            )
        if any((other.name, other.version) == (agent.name, agent.version) for other in listed):
            version = f" of version {agent.version!r}" if agent.version else ""
            raise BadSetting(
                f"AGENTS={place}: there is another agent named {agent.name!r}{version}. Give this one its own name, or "
                "another version, such as version='2'."
            )
        listed.append(agent)
    return Agents.listed([builtin, *listed])
