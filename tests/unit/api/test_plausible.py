# SPDX-License-Identifier: Apache-2.0
"""Which complete states are believed: never an older one, or a much smaller one, at first sight."""

from __future__ import annotations

from typing import Collection

import pytest

from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.api.plausible import Older, Plausibility, Shrunken, Snapshot


def keys(*names: str) -> set[ObjectKey]:
    return {ObjectKey("default", name) for name in names}


def state(
    version: int | str, unsure: Collection[ObjectKey] | None = (), **objects: int
) -> Snapshot:
    """A state by names and versions."""
    named = {ObjectKey("default", name): str(v) for name, v in objects.items()}
    return Snapshot(str(version), named, unsure)


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Watch:
    return Watch()


@pytest.fixture
def plausibility(clock: Watch) -> Plausibility:
    return Plausibility(clock)


NOTHING = Snapshot("", {})
KNOWN = state(200, a=110, b=150, c=190)


def test_the_first_state_is_believed(plausibility: Plausibility) -> None:
    """Whatever its version, and however small it is."""
    plausibility.check(NOTHING, state(5))


def test_a_state_of_the_same_version_is_no_older_one(plausibility: Plausibility) -> None:
    """Nothing happened since."""
    plausibility.check(KNOWN, KNOWN)


def test_an_older_state_is_refused_until_it_has_lasted(
    plausibility: Plausibility, clock: Watch
) -> None:
    """It takes a minute and three such lists: one alone, however late, tells nothing."""
    past = state(180, a=110, b=150, c=170)
    for clock.now in (0.0, 30.0, 59.9):
        with pytest.raises(Older):
            plausibility.check(KNOWN, past)
    clock.now = 60.0
    plausibility.check(KNOWN, past)


def test_two_older_states_are_not_enough_however_far_apart(
    plausibility: Plausibility, clock: Watch
) -> None:
    """While nothing answers, no time passes for this purpose."""
    past = state(180, a=110, b=150, c=170)
    for clock.now in (0.0, 1000.0):
        with pytest.raises(Older):
            plausibility.check(KNOWN, past)
    plausibility.check(KNOWN, past)


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(state(150, a=110, b=150, c=190), id="the same objects"),
        pytest.param(state(150, a=110, b=150, c=190, d=210), id="one that is new"),
        pytest.param(state(150, a=110, b=205, c=190), id="one that has changed since"),
        pytest.param(state(150, keys("c"), a=110, b=150), id="one that cannot be read"),
    ],
)
def test_an_older_state_that_takes_nothing_back_is_believed(
    plausibility: Plausibility, late: Snapshot
) -> None:
    """Caches on a node give the newest version of their objects, not that of a bookmark; what
    came after what we have seen is asked for, nothing twice."""
    assert plausibility.check(KNOWN, late) == "200"
    assert plausibility.doubts == 0


@pytest.mark.parametrize(
    "past",
    [
        pytest.param(state(180, a=110, b=150), id="one is gone that came"),
        pytest.param(state(180, a=110, b=150, c=190, d=170), id="one is back that went"),
        pytest.param(state(188, a=110, b=150, c=185), id="one is as it was"),
    ],
)
def test_an_older_state_that_takes_anything_back_is_doubted(
    plausibility: Plausibility, past: Snapshot
) -> None:
    """Each alone is reason enough."""
    with pytest.raises(Older):
        plausibility.check(KNOWN, past)


def test_a_new_state_ends_the_doubt(plausibility: Plausibility, clock: Watch) -> None:
    """A replica that has caught up starts the count anew."""
    past = state(180, a=110, b=150, c=170)
    for clock.now in (0.0, 30.0):
        with pytest.raises(Older):
            plausibility.check(KNOWN, past)
    plausibility.check(KNOWN, state(201, a=110, b=150, c=190))
    assert plausibility.doubts == 0
    for clock.now in (70.0, 80.0, 90.0):
        with pytest.raises(Older):
            plausibility.check(KNOWN, past)
    assert plausibility.doubts == 3


def test_another_history_is_believed_at_once(plausibility: Plausibility) -> None:
    """At 180 our "b" had been at 150 for long: a state where it is at 140 or 170 is not ours."""
    for version in (140, 170):
        plausibility.check(KNOWN, state(180, a=110, b=version, c=175))


def test_what_is_missing_from_an_older_state_proves_nothing(plausibility: Plausibility) -> None:
    """It may be missing from the list alone."""
    with pytest.raises(Older):
        plausibility.check(KNOWN, state(180, a=110, c=170))


def test_versions_without_an_order_are_believed(plausibility: Plausibility) -> None:
    """A server whose versions are no numbers cannot be told to be late."""
    plausibility.check(state("x9", a=1), state("x1", a=1))
    plausibility.check(state(200, a=1), state("x1", a=1))


def test_a_shrunken_state_is_believed_the_second_time(plausibility: Plausibility) -> None:
    """One list that lacks more than a tenth is not enough; two that lack the same are."""
    many = {f"s{n}": 100 for n in range(30)}
    less = dict(list(many.items())[:20])
    with pytest.raises(Shrunken, match="10 of 30"):
        plausibility.check(state(200, **many), state(201, **less))
    plausibility.check(state(200, **many), state(202, **less))


def test_the_second_list_may_lack_other_things(plausibility: Plausibility) -> None:
    """Then it confirms nothing, and is doubted in its turn."""
    many = {f"s{n}": 100 for n in range(30)}
    items = list(many.items())
    with pytest.raises(Shrunken):
        plausibility.check(state(200, **many), state(201, **dict(items[:20])))
    with pytest.raises(Shrunken):
        plausibility.check(state(200, **many), state(202, **dict(items[10:])))
    plausibility.check(state(200, **many), state(203, **many))


def test_a_first_state_is_measured_by_what_an_earlier_process_knew(clock: Watch) -> None:
    """It is doubted once, as any later one is; from then on what came counts."""
    many = {f"s{n}": 100 for n in range(30)}
    less = dict(list(many.items())[:20])
    plausibility = Plausibility(clock, expected=keys(*many))
    with pytest.raises(Shrunken, match="10 of 30"):
        plausibility.check(NOTHING, state(201, **less))
    plausibility.check(NOTHING, state(202, **less))
    plausibility.check(state(202, **less), state(203, **less))


def test_a_first_state_that_lacks_little_is_believed(clock: Watch) -> None:
    """More than was known is no reason for a doubt."""
    plausibility = Plausibility(clock, expected=keys("a", "b"))
    plausibility.check(NOTHING, state(200, a=110, b=150, c=190))


def test_a_few_missing_objects_are_believed_at_once(plausibility: Plausibility) -> None:
    """A tenth goes in any outage of some length; a second list of a large cluster is not free."""
    many = {f"s{n}": 100 for n in range(30)}
    plausibility.check(state(200, **many), state(201, **dict(list(many.items())[:27])))


def test_what_could_not_be_read_is_not_missing(plausibility: Plausibility) -> None:
    """It is there; and if even names are unreadable, nobody knows what is missing."""
    plausibility.check(KNOWN, state(201, keys("a", "b"), c=190))
    plausibility.check(KNOWN, state(201, None))


def test_a_shrunken_state_is_doubted_after_an_older_one_was_accepted(
    plausibility: Plausibility,
) -> None:
    """A backup that lacks most is asked for once more, like any list."""
    restored = state(180, a=120)
    with pytest.raises(Shrunken):
        plausibility.check(KNOWN, restored)
    plausibility.check(KNOWN, restored)
