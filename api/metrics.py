"""Figures for Prometheus, made when they are asked for."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.reading_views import ProjectionView


class _Figures(Collector):
    def __init__(self, projections: Sequence[ProjectionView]) -> None:
        self._projections = projections

    def collect(self) -> Iterable[GaugeMetricFamily]:
        lag = GaugeMetricFamily(
            "threadfold_projection_lag_events",
            "Events that a read model has not seen yet.",
            labels=["projection", "instance", "status"],
        )
        parked = GaugeMetricFamily(
            "threadfold_projection_parked_threads",
            "Threads that a read model leaves out since an event that it could not take.",
            labels=["projection", "instance", "status"],
        )
        for projection in self._projections:
            for instance in projection.instances:
                labels = [projection.name, str(instance.instance), instance.status]
                lag.add_metric(labels, instance.lag)
                parked.add_metric(labels, instance.parked)
        return lag, parked


def exposition(projections: Sequence[ProjectionView]) -> bytes:
    """Write the figures in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(projections))
    return generate_latest(registry)
