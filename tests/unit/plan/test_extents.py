# SPDX-License-Identifier: Apache-2.0
"""The allocators hand nothing out twice and lose nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy_bpf.plan.extents import Extents
from kubeproxy_bpf.plan.ids import IdPool, next_generation


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=80))
def test_runs_never_overlap_and_melt_together_again(steps: list[tuple[bool, int]]) -> None:
    """Whatever is taken and given back, in the end one run is left that holds everything."""
    extents, taken = Extents(1, 500), {}
    for give, number in steps:
        if give and taken:
            start = sorted(taken)[number % len(taken)]
            extents.give(start, taken.pop(start))
        elif (start := extents.take(number)) is not None:
            taken[start] = number
        cells = [c for start, length in taken.items() for c in range(start, start + length)]
        assert len(cells) == len(set(cells)) == 500 - extents.free
    for start, length in taken.items():
        extents.give(start, length)

    assert [(1, 500)] == list(extents.runs())


def test_a_run_that_exists_is_found() -> None:
    """The closest fit within a class is looked for when no larger class has a run."""
    extents = Extents(0, 200)
    assert [0, 33, 66, 100] == [extents.take(n) for n in (33, 33, 34, 100)]
    for start, length in ((0, 33), (66, 34)):
        extents.give(start, length)

    assert 66 == extents.take(34)


def test_ids_begin_at_one_and_end() -> None:
    """Id 0 means "none"."""
    pool = IdPool(3)

    assert [1, 2, None] == [pool.take() for _ in range(3)]


def test_record_ids_come_back_as_late_as_possible() -> None:
    """Fresh ids go first, then the oldest returned one."""
    pool = IdPool(4, dense=False)
    pool.take()
    pool.give([1])

    assert [2, 3, 1, None] == [pool.take() for _ in range(4)]


def test_a_restarted_pool_hands_out_nothing_before_it_is_opened() -> None:
    """What was free may still be read."""
    pool = IdPool(5)
    gaps = pool.reserve([1, 3])
    assert ([2], None) == (gaps, pool.take())
    pool.open()
    pool.give(gaps)

    assert [2, 4, None] == [pool.take() for _ in range(3)]


def test_generations_skip_zero() -> None:
    """0 means "never used", also after 32 bits."""
    assert (1, 1) == (next_generation(0), next_generation(0xFFFFFFFF))
