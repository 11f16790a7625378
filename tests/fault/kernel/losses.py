# SPDX-License-Identifier: Apache-2.0
"""What may be lost while a device has no program of ours: see docs/reliability.md."""

from __future__ import annotations

from tests.fault.load.offered import Load

PER_SECOND = 350
"""Conversations by packets that begin in a second."""
HELD_OUTSIDE = 30
BLIND_S = 2
"""The uplink is glanced at each half second; a busy machine may take longer."""
UNDER_WAY = 30
"""Conversations by packets that have begun and not ended: the load has a few at any moment, a busy
machine some more."""


def by_packets_only(load: Load) -> None:
    """Packets that meet no program of ours come to the node itself, which has no such port.

    It refuses what is new. Of what is under way it resets the client's side; where an answer leaves
    in the backend's own name, the client's host resets the backend's side, and the client, whose
    question has been acknowledged, waits in vain.
    """
    load.expect(
        refused=BLIND_S * PER_SECOND,
        reset=UNDER_WAY,
        timed_out=UNDER_WAY,
        held_lost=HELD_OUTSIDE,
    )


def nothing_lost_inside(load: Load) -> bool:
    """The first source is that of the sockets, and the first losses are told in words."""
    return not any(each.startswith("shell-1") for each in load.report.samples)
