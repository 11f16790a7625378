# SPDX-License-Identifier: Apache-2.0
"""Carries packets of one flow through all hooks of the node, as the kernel would, both ways.

Every step is compared with the packet that scapy builds; what the tests decide is only who talks
to whom, and what the flow is to look like at each of its three tuples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import frames
from .conftest import MIDDLE, SNAT
from .frames import TTL, Ends
from .hooks import Hooks, Seen, Verdict
from .node import MAC


def told_apart(middle: Ends, data: bytes) -> Ends:
    """The middle tuple of a frame: a masqueraded datagram has a port that no client has.

    So has what comes from the backend's own port.
    """
    came = frames.ends_of(frames.read(data))
    assert came.source_port in MIDDLE
    return middle._replace(source_port=came.source_port)


@dataclass
class Conversation:
    """One flow: ``outer`` as the client sees it, ``backend`` as it sends itself."""

    hooks: Hooks
    protocol: str
    outer: Ends
    backend: tuple[str, int]
    client_device: str
    """By which the client's packets come, and answers go."""
    backend_device: str
    own: str = ""
    """The node's address that the backend sees, if it does not see the client."""
    direct: bool = False
    host: bool = False
    """The client is a socket of the host."""
    inner: Ends | None = field(default=None, init=False)
    middle: Ends = field(init=False)
    """As netfilter sees it."""

    def __post_init__(self) -> None:
        self.middle = self.outer.to(*self.backend)

    def ask(self, **fields: Any) -> None:
        """A packet of the client reaches the backend."""
        sent = frames.frame(self._packet(self.outer, **fields), MAC[self.client_device])
        first = self.hooks.egress if self.host else self.hooks.ingress
        seen = first(self.client_device, sent)
        if self.direct:
            self.arrived(seen, TTL if self.host else TTL - 1, **fields)
            return
        apart = self.protocol == "UDP" or self.outer[:2] == self.backend
        if self.own and apart and self.inner is None:
            self.middle = told_apart(self.middle, seen.data)
        self.check(seen, Verdict.UNSPEC, self.middle, **fields)
        left = self.hooks.egress(self.backend_device, seen.data)
        assert left.verdict is Verdict.UNSPEC
        self.arrived(left, TTL, **fields)

    def arrived(self, seen: Seen, ttl: int, **fields: Any) -> None:
        """What the backend gets is right, and the same flow each time."""
        came = frames.ends_of(frames.read(seen.data))
        if self.own:
            assert (came.source, came[2:]) == (self.own, self.backend)
            assert came.source_port in SNAT or self.protocol == "SCTP"
        else:
            assert came == self.middle
        assert self.inner in (None, came)
        self.inner = came
        wanted = Verdict.REDIRECT if self.direct else Verdict.UNSPEC
        self.check(seen, wanted, came, ttl, **fields)

    def answer(self, leaves_by: str = "", **fields: Any) -> None:
        """A packet of the backend reaches the client, whichever device the routes lead to."""
        assert self.inner
        fields = {"flags": "SA"} | fields if self.protocol == "TCP" else fields
        inner = self.inner.reply()
        sent = frames.frame(self._packet(inner, **fields), MAC[self.backend_device])
        seen = self.hooks.ingress(self.backend_device, sent)
        outer = self.outer.reply()
        if self.direct:
            ttl = TTL if self.host else TTL - 1
            self.check(seen, Verdict.REDIRECT, outer, ttl, **fields)
            return
        self.check(seen, Verdict.UNSPEC, self.middle.reply(), **fields)
        device = leaves_by or self.client_device
        left = self.hooks.egress(device, seen.data)
        elsewhere = Verdict.REDIRECT if device != self.client_device else Verdict.UNSPEC
        self.check(left, elsewhere, outer, **fields)

    def check(
        self, seen: Seen, verdict: Verdict, ends: Ends, ttl: int = TTL, **fields: Any
    ) -> None:
        built = self._packet(ends, ttl, **fields)
        assert frames.difference(seen.data, built) == ""
        assert seen.verdict is verdict

    def _packet(self, ends: Ends, ttl: int = TTL, **fields: Any) -> frames.Packet:
        return frames.packet(self.protocol, ends, ttl, **fields)
