# SPDX-License-Identifier: Apache-2.0
"""How long the loss of a first place is borne."""

import pytest
import structlog

from kubeproxy_bpf.dataplane.contest import FirstPlaces
from kubeproxy_bpf.dataplane.places import Hook, Place

PLACE = Place(2, "eth0", Hook.INGRESS)
OTHER = Place(2, "eth0", Hook.EGRESS)


class Contest:
    """First places, and a clock that is set by hand."""

    def __init__(self):
        self.now = 0.0
        self.places = FirstPlaces(lambda: self.now)

    def borne_s(self, place=PLACE):
        """How long a loss that begins now is borne, by looks each 10 s."""
        began = self.now
        while not self.places.take_back(place):
            self.now += 10
        return self.now - began


@pytest.fixture
def contest():
    return Contest()


def test_each_loss_is_borne_longer_up_to_an_hour(contest):
    """The first is made good at once."""
    borne = [contest.borne_s() for _ in range(11)]
    assert [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600] == borne


def test_who_was_first_for_an_hour_starts_anew(contest):
    """Whether it was put there, or the other went away."""
    contest.borne_s()
    contest.now += 3599
    assert 10 == contest.borne_s()
    contest.now += 3600
    assert 0 == contest.borne_s()

    assert not contest.places.take_back(PLACE)
    contest.places.held(PLACE)
    contest.now += 3600
    contest.places.held(PLACE)
    assert contest.places.take_back(PLACE)


def test_each_place_has_its_own_patience(contest):
    """And it is forgotten with the place."""
    contest.borne_s()
    assert 0 == contest.borne_s(OTHER)
    contest.places.keep([OTHER])

    assert 10 == contest.borne_s(OTHER)
    assert 0 == contest.borne_s()


def test_the_other_who_leaves_ends_the_loss(contest):
    """The next loss is borne from its own beginning."""
    contest.borne_s()
    assert not contest.places.take_back(PLACE)
    contest.now += 9
    contest.places.held(PLACE)
    contest.now += 9

    assert 10 == contest.borne_s()


def test_a_loss_that_is_borne_is_told_once(contest):
    """Not at each look."""
    contest.borne_s()
    contest.borne_s()
    with structlog.testing.capture_logs() as logged:
        contest.borne_s()
    expected = {"event": "program_not_first", "log_level": "warning"}
    assert [{**expected, "place": "eth0 ingress", "borne_s": 20}] == logged
