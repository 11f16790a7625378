# SPDX-License-Identifier: Apache-2.0
"""Counters, gauges and histograms as plain numbers, written by whoever measures something.

One write is one dictionary entry and no lock: each metric has one writer at a time, and the copy
that ``family`` makes is one step of the interpreter. Formats and the client library are the
business of ``serve.exposition``, when somebody asks. What kube-proxy measures is declared in
``meters`` and ``api.meters``.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Iterator, Mapping, NamedTuple

Labels = tuple[str, ...]


class Distribution(NamedTuple):
    """What a histogram knows of one series."""

    counts: tuple[int, ...]
    """Observations by bucket, not accumulated; the last is beyond all bounds."""
    sum: float


class Family(NamedTuple):
    """All series of one metric at one moment."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    help: str
    labels: Labels
    series: Mapping[Any, float | Distribution]
    """By label values, in the order of ``labels``."""
    bounds: tuple[float, ...] = ()


def gauge(name: str, help: str, value: float) -> Family:
    """A gauge without labels."""
    return Family(name, "gauge", help, (), {(): value})


class Counter:
    """Only grows. The name carries its suffix ``_total``."""

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add to the series with these label values, in the order of ``labels``."""
        self.values[labels] = self.values.get(labels, 0) + by

    def family(self) -> Family:
        """A copy."""
        return Family(self.name, "counter", self.help, self.labels, dict(self.values))


class Gauge:
    """Goes up and down. Without labels it is 0 until it is set."""

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def set(self, value: float, *labels: str) -> None:
        """Set the series with these label values, in the order of ``labels``."""
        self.values[labels] = value

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add to the series with these label values."""
        self.values[labels] = self.values.get(labels, 0) + by

    def family(self) -> Family:
        """A copy."""
        return Family(self.name, "gauge", self.help, self.labels, dict(self.values))


class Histogram:
    """Counts observations by size; ``bounds`` are the upper ends of the buckets, inclusive."""

    def __init__(
        self, name: str, help: str, bounds: tuple[float, ...], labels: Labels = ()
    ) -> None:
        self.name = name
        self.help = help
        self.bounds = bounds
        self.labels = labels
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        if not labels:
            self._add(())

    def observe(self, value: float, *labels: str) -> None:
        """Count one observation in the series with these label values."""
        counts = self._counts.get(labels) or self._add(labels)
        counts[bisect_left(self.bounds, value)] += 1
        self._sums[labels] += value

    def family(self) -> Family:
        """A copy."""
        series = {
            labels: Distribution(tuple(counts), self._sums[labels])
            for labels, counts in self._counts.copy().items()
        }
        return Family(self.name, "histogram", self.help, self.labels, series, self.bounds)

    def _add(self, labels: Labels) -> list[int]:
        self._sums[labels] = 0.0
        counts = self._counts[labels] = [0] * (len(self.bounds) + 1)
        return counts


Meter = Counter | Gauge | Histogram


class Meters:
    """The metrics of one part: all attributes that are one."""

    def families(self) -> Iterator[Family]:
        """Copies of all, by name."""
        meters = [meter for meter in vars(self).values() if isinstance(meter, Meter)]
        return (meter.family() for meter in sorted(meters, key=lambda meter: meter.name))


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """Bounds that grow by a factor."""
    # Rounded, as a bound is a label: 0.004 must not become 0.0040000000000000001.
    return tuple(round(first * factor**power, 9) for power in range(count))
