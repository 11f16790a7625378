# SPDX-License-Identifier: Apache-2.0
"""What counts as flat in the figures of a soak."""

from __future__ import annotations

from tests.soak.verdict import EXACT, RESTORED, Tolerance, compare, judge, table


def samples(values: list[float], age_s: float = 100.0) -> list[dict[str, float]]:
    return [{"age_s": age_s, "ids": value} for value in values]


def flat(values: list[float], tolerance: Tolerance) -> bool:
    (found,) = judge(samples(values), 60.0, {"ids": tolerance})
    return found.flat


def test_a_leak_grows_and_noise_does_not() -> None:
    """The medians of the first and of the last third are compared."""
    assert not flat([20, 20, 21, 21, 22, 22], EXACT)
    assert flat([20, 20, 90, 20, 20, 20, 20, 3, 20], EXACT)
    assert flat([100, 100, 104, 104, 105, 105], Tolerance(1.05))
    assert not flat([100, 100, 104, 104, 106, 106], Tolerance(1.05))
    assert flat([0, 0, 0, 2, 2, 2], Tolerance(more=2))


def test_a_process_that_warms_up_is_not_judged() -> None:
    """Samples of a young process do not count, and without any others nothing is flat."""
    young, old = samples([1, 1, 1], age_s=10), samples([5, 5, 5])
    (found,) = judge(young + old, 60.0, {"ids": EXACT})
    assert (found.early, found.late, found.flat) == (5, 5, True)
    (nothing,) = judge(young, 60.0, {"ids": EXACT})
    assert not nothing.flat


def test_what_the_cluster_decides_has_to_be_the_same_again() -> None:
    """One slot more for the same cluster is a leak, and one less is a loss."""
    before = {name: 7.0 for name in RESTORED}
    assert all(each.flat for each in compare(before, before))
    for wrong in (6.0, 8.0):
        bad = [each.name for each in compare(before, before | {"slots": wrong}) if not each.flat]
        assert bad == ["=slots"]
    assert "GROWS" in table(compare(before, before | {"slots": 8.0}))
