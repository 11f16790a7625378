# SPDX-License-Identifier: Apache-2.0
"""Families of metrics as text: 0.0.4 of Prometheus, or OpenMetrics for those who accept it.

The only module that needs the client library, which is imported when somebody asks for metrics for
the first time. Called by ``metrics``, in a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable

from kubeproxy_bpf.metering import Distribution, Family, Labels

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric


def render(families: Iterable[Family], accept: str = "", process: bool = True) -> tuple[bytes, str]:
    """All families as text, and its content type; ``process``: with those of the process itself."""
    from prometheus_client import REGISTRY
    from prometheus_client.core import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    try:
        encoder, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is no number.
        encoder, content_type = choose_encoder("")
    canonical = "openmetrics" in content_type

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            # A metric without series is not mentioned, as by the servers of Kubernetes.
            yield from (_metric(family, canonical) for family in families if family.series)
            if process:
                yield from REGISTRY.collect()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return encoder(registry), content_type


def _metric(family: Family, canonical: bool) -> Metric:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, found in family.series.items():
            assert isinstance(found, Distribution)
            _add(histogram, labels, found, family.bounds, canonical)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in family.series.items():
        assert not isinstance(value, Distribution)
        metric.add_metric(labels, value)
    return metric


def _add(
    histogram: HistogramMetricFamily,
    labels: Labels,
    found: Distribution,
    bounds: tuple[float, ...],
    canonical: bool,
) -> None:
    buckets, count = [], 0
    for bound, more in zip((*bounds, float("inf")), found.counts, strict=True):
        count += more
        buckets.append((_bound(bound, canonical), count))
    histogram.add_metric(labels, buckets, found.sum)


def _bound(bound: float, canonical: bool) -> str:
    """A label: "1" is what Go's servers write, and "1.0" what OpenMetrics wants."""
    if bound == float("inf"):
        return "+Inf"
    return str(bound) if canonical or bound != int(bound) else str(int(bound))
