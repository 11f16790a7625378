# SPDX-License-Identifier: Apache-2.0
"""Counters, gauges and histograms as plain numbers."""

from kubeproxy_bpf.metering import Counter, Distribution, Gauge, Histogram, Meters, exponential


def test_a_counter_counts_by_labels():
    """One series for each combination of values, none before the first use."""
    counter = Counter("x_total", "", ("code",))
    assert {} == counter.family().series
    counter.inc("200")
    counter.inc("200", by=2)
    counter.inc("503")

    assert {("200",): 3, ("503",): 1} == counter.family().series


def test_without_labels_there_is_a_zero_from_the_beginning():
    """Else nobody could tell "never happened" from "not measured"."""
    assert {(): 0} == Counter("x_total", "").family().series
    assert {(): 0} == Gauge("x", "").family().series
    assert {(): Distribution((0, 0), 0.0)} == Histogram("x", "", (1.0,)).family().series


def test_a_bound_belongs_to_its_bucket():
    """Bounds are inclusive; what is beyond all of them is counted too."""
    histogram = Histogram("x", "", (1.0, 2.0), ("family",))
    for value in (0.5, 1.0, 1.5, 2.0, 7.0):
        histogram.observe(value, "IPv4")

    assert {("IPv4",): Distribution((2, 2, 1), 12.0)} == histogram.family().series


def test_a_family_is_a_copy():
    """What is rendered in another thread does not change meanwhile."""
    counter, histogram = Counter("x_total", ""), Histogram("y", "", (1.0,))
    families = counter.family(), histogram.family()
    counter.inc()
    histogram.observe(0.5)

    assert ({(): 0}, {(): Distribution((0, 0), 0.0)}) == tuple(f.series for f in families)


def test_meters_show_all_that_they_hold():
    """Every attribute that is a metric, by name."""

    class Some(Meters):
        def __init__(self):
            self.second = Gauge("b", "")
            self.first = Counter("a_total", "")
            self.other = 5

    assert ["a_total", "b"] == [family.name for family in Some().families()]


def test_exponential_bounds_are_round():
    """A bound is a label: no digits of binary fractions."""
    assert (0.001, 0.002, 0.004) == exponential(0.001, 2, 3)
    assert 16.384 == exponential(0.001, 2, 15)[-1]
