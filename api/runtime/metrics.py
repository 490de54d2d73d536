"""Metrics for Prometheus, collected on request."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.schemas.read_models import ProjectionView
from domain.application.background_tasks import TaskStatus


class _Metrics(Collector):
    def __init__(self, projections: Sequence[ProjectionView], tasks: Sequence[TaskStatus]) -> None:
        self._projections = projections
        self._tasks = tasks

    def collect(self) -> Iterable[Metric]:
        labels = ["projection", "instance", "status"]
        lag = GaugeMetricFamily(
            "threadfold_projection_lag_events", "Events that a read model has not seen yet.", labels=labels
        )
        parked = GaugeMetricFamily(
            "threadfold_projection_parked_threads",
            "Threads that a read model leaves out since an event that it could not take.",
            labels=labels,
        )
        up = GaugeMetricFamily(
            "threadfold_background_task_up", "Whether a background task of this process runs.", labels=["task"]
        )
        restarts = CounterMetricFamily(
            "threadfold_background_task_restarts", "Starts of a background task after it failed.", labels=["task"]
        )
        for projection in self._projections:
            for instance in projection.instances:
                values = [projection.name, str(instance.instance), instance.status]
                lag.add_metric(values, instance.lag)
                parked.add_metric(values, instance.parked)
        for task in self._tasks:
            up.add_metric([task.name], int(task.up))
            restarts.add_metric([task.name], task.restarts)
        return lag, parked, up, restarts


def exposition(projections: Sequence[ProjectionView], tasks: Sequence[TaskStatus]) -> bytes:
    """Write the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(projections, tasks))
    return generate_latest(registry)
