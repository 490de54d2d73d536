"""The projections' administration: their progress, parked threads, rebuilds and rollbacks."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from api.http.caller import Caller
from api.runtime.composition import ALL_SLICES, Runtime
from api.schemas.read_models import InstanceView, ParkedView, ProjectionView, instance_view
from api.services.access_log import AccessLogService
from domain.errors import UnknownProjection, UnknownThread
from domain.ids import ThreadId, slice_of
from domain.ports.read_models import GroupId, Instance
from projections.engine.projection import Projection


class ProjectionAdmin:
    """Lists, rebuilds, rolls back and drops projections, and retries parked threads.

    What an operator does is recorded before it is done: see `AccessLogService`.
    """

    def __init__(self, runtime: Runtime, access_log: AccessLogService) -> None:
        """Work with what the composition root has joined."""
        self._access_log = access_log
        self._runtime = runtime
        self._models = runtime.log.models
        self._projections: Mapping[str, Projection] = {p.name: p for p in runtime.runner.projections}

    async def projections(self) -> Sequence[ProjectionView]:
        """Return each projection's progress and number of parked threads, without those that are dropped meanwhile."""
        instances, groups = await self._models.instances(), {group.id: group for group in await self._models.groups()}
        parked = Counter(
            one.instance for one in await self._models.parked([instance.id for instance in instances], ALL_SLICES)
        )
        views: defaultdict[str, list[InstanceView]] = defaultdict(list)
        for instance in instances:
            if group := groups.get(instance.group):
                views[instance.projection].append(instance_view(instance, group, parked[instance.id]))
        return [ProjectionView.of(name, found) for name, found in views.items()]

    async def parked(self) -> Sequence[ParkedView]:
        """Return the parked threads, the longest parked first."""
        instances = {instance.id: instance for instance in await self._models.instances()}
        found = await self._models.parked(list(instances), ALL_SLICES)
        return [ParkedView.of(instances[one.instance].projection, one) for one in found]

    async def settle(self, name: str, thread_id: ThreadId, caller: Caller, *, skip: bool) -> bool:
        """Retry a parked thread, or skip the event that it was parked at. True if it is up to date after that.

        Raises `UnknownProjection`, `UnknownThread`, `NotRebuildable`.
        """
        instances = await self._instances_of(name)
        known = {i.id for i in instances if name in self._projections and i.version == self._projections[name].version}
        parked = await self._models.parked([i.id for i in instances], [slice_of(thread_id)])
        mine = [one for one in parked if one.thread_id == thread_id]
        if not mine:
            raise UnknownThread(thread_id)
        await self._access_log.record_operation(caller, "skip" if skip else "retry", thread_id)
        foldable = [one for one in mine if one.instance in known] or mine  # those of older code cannot be folded again
        return all([await self._runtime.runner.retry(one, skip=skip) for one in foldable])

    async def rebuild(self, names: Sequence[str], throttle: int | None, caller: Caller) -> GroupId:
        """Begin to rebuild projections while the old ones serve. Raises `UnknownProjection`, `NotRebuildable`."""
        shapes = [self._known(name).shape for name in dict.fromkeys(names)]
        listed = ",".join(shape.name for shape in shapes)
        await self._access_log.record_operation(caller, "rebuild", projections=listed, throttle=throttle)
        group = await self._models.rebuild(shapes, throttle)
        self._runtime.runner.wake()
        return group

    async def roll_back(self, name: str, caller: Caller) -> Instance:
        """Let the instance that served before serve again. Raises `UnknownProjection`, `NotRebuildable`."""
        known = self._known(name)
        await self._access_log.record_operation(caller, "rollback")
        return await self._runtime.runner.roll_back(known.name)

    async def drop(self, name: str, caller: Caller) -> None:
        """Drop the instances that do not serve; all of them, if this process does not know the projection.

        Raises `UnknownProjection`, `NotRebuildable`.
        """
        instances = await self._instances_of(name)
        await self._access_log.record_operation(caller, "drop")
        forgotten = name not in self._projections
        for instance in instances:
            if forgotten or instance.status != "serving":
                await self._models.drop(instance.id, serving=forgotten)

    async def trouble(self) -> str | None:
        """Return a sentence about what an operator should look at; None if there is nothing."""
        trouble = []
        if parked := await self.parked():
            names = ", ".join(sorted({one.projection for one in parked}))
            trouble.append(f"{len(parked)} parked in the read models {names}: see /v1/projections/parked")
        known = {(projection.name, projection.version) for projection in self._projections.values()}
        trouble += [
            f"the read model {one.projection} serves version {one.version}, which this process does not know and "
            "cannot keep up to date: run processes that know it, or see `threadfold projections rollback`"
            for one in await self._models.instances()
            if one.status == "serving" and (one.projection, one.version) not in known
        ]
        return "; ".join(trouble) or None

    async def _instances_of(self, name: str) -> Sequence[Instance]:
        instances = [instance for instance in await self._models.instances() if instance.projection == name]
        if not instances:
            self._known(name)
        return instances

    def _known(self, name: str) -> Projection:
        if name not in self._projections:
            raise UnknownProjection(name, tuple(self._projections))
        return self._projections[name]
