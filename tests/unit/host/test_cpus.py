# SPDX-License-Identifier: Apache-2.0
"""How processors are counted."""

import os

import pytest

from kubeproxy_bpf.host.cpus import cpu_count


@pytest.fixture
def cpus(tmp_path):
    def add(number, *, online=None, topology=True):
        cpu = tmp_path / f"cpu{number}"
        (cpu / "topology").mkdir(parents=True)
        if topology:
            (cpu / "topology" / "core_id").write_text("0\n")
        if online is not None:
            (cpu / "online").write_text(f"{online}\n")

    add.path = tmp_path
    return add


def test_threads_of_one_core_count_each(cpus):
    """Four processors with the same core id are four."""
    for number in range(4):
        cpus(number)

    assert 4 == cpu_count(cpus.path)


def test_what_is_offline_or_was_never_there_does_not_count(cpus):
    """A processor that is switched off, or has no topology, is none."""
    cpus(0)
    cpus(1, online=1)
    cpus(2, online=0)
    cpus(10, topology=False)

    assert 2 == cpu_count(cpus.path)


def test_other_entries_of_the_directory_are_no_processors(cpus):
    """cpufreq and cpuidle stand beside the processors."""
    cpus(0)
    (cpus.path / "cpufreq").mkdir()

    assert 1 == cpu_count(cpus.path)


def test_without_sysfs_those_count_that_the_process_may_use(tmp_path):
    """The fallback is what the runtime says."""
    assert len(os.sched_getaffinity(0)) == cpu_count(tmp_path)
