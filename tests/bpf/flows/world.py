# SPDX-License-Identifier: Apache-2.0
"""The packet world for a table of many flows: filled, aged and examined as a whole.

A full table has 65,536 entries: they stay bytes, and what is asked of them is cut out.
"""

from __future__ import annotations

import struct
from typing import Collection, Iterable

from kubeproxy_bpf.dataplane.flows import Tuple
from kubeproxy_bpf.dataplane.loader import Datapath
from tests.bpf.packet.node import LOCAL_POD
from tests.bpf.packet.world import EXTERNAL_IP, EXTERNAL_LOCAL, STATES, PacketWorld
from tests.bpf.world import PORT, mapped, shown

from .crowd import TCP, UDP, Place, ends

Table = dict[bytes, bytes]
"""Keys and values of the flow table."""

TRACK_ALONE = 1 << 8
TRACK_ASSURED = 1 << 9
VIP = "198.51.100.80"
_LONG_AGO = struct.pack("=I", 1)


_SETTLED_TICKS = 1000
"""More time for flows that both sides have agreed to."""
_SETTLED = {TCP: "TCP_ESTABLISHED", UDP: "UDP_REPLIED"}


class FlowWorld(PacketWorld):
    """What tests of many flows do to the table, and ask of it."""

    def __init__(self, datapath: Datapath, ifindex: dict[str, int]) -> None:
        super().__init__(datapath, ifindex)
        members = datapath.btf.structs["flow"].members
        self._at = {m.name: slice(m.offset, m.offset + m.size) for m in members}

    def clear(self, names: Iterable[str] = ()) -> None:
        names = tuple(names)
        if not names or "kpb_flows" in names:
            keys = self.table().keys()
            self.maps["kpb_flows"].delete_batch(b"".join(keys), len(keys))
        super().clear(names)

    def serve_clients(self, protocol: int = TCP) -> Place:
        """A Service with one local backend that sees its clients: two entries for each flow."""
        self.service(
            (EXTERNAL_IP, VIP, 80), local=[LOCAL_POD[0]], protocol=protocol, flags=EXTERNAL_LOCAL
        )
        return Place((VIP, 80), (LOCAL_POD[0], PORT), protocol)

    def table(self) -> Table:
        """All flows."""
        return dict(self.maps["kpb_flows"].items())

    def key(self, place: Place, number: int) -> bytes:
        """The key of a client's flow, as its packets have it."""
        source, port, destination, destination_port = ends(place, number)
        return self._tuple.encode(
            Tuple(mapped(source), mapped(destination), port, destination_port, place.protocol)
        )

    def partner(self, key: bytes, value: bytes) -> bytes:
        """The key of the entry that undoes this one."""
        names = ("destination", "source", "destination_port", "source_port")
        return b"".join(value[self._at[name]] for name in names) + key[36:]

    def state(self, value: bytes) -> str:
        return STATES[value[self._at["state"]][0]]

    def destination(self, value: bytes) -> str:
        """Who gets the packets of an entry."""
        return shown(value[self._at["destination"]])

    def source_port(self, value: bytes) -> int:
        """The port under which the receiver sees the sender."""
        return int.from_bytes(value[self._at["source_port"]], "big")

    def states(self, table: Table, place: Place, numbers: range) -> set[str]:
        """States of the flows of these clients, "NONE" if one has no flow."""
        found = (table.get(self.key(place, number)) for number in numbers)
        return {self.state(value) if value else "NONE" for value in found}

    def halves(self, table: Table) -> Table:
        """Entries whose partner is absent, or is somebody else's."""
        return {key: value for key, value in table.items() if not self._is_whole(table, key, value)}

    def _is_whole(self, table: Table, key: bytes, value: bytes) -> bool:
        if struct.unpack("=H", value[self._at["flags"]])[0] & TRACK_ALONE:
            return True
        other = self.partner(key, value)
        return other in table and self.partner(other, table[other]) == key

    def settle(self) -> None:
        """Let all flows be connections that both sides have agreed to."""
        state, flags = self._at["state"], self._at["flags"]
        chosen: dict[bytes, bytes] = {}
        for key, value in self.table().items():
            old = struct.unpack("=H", value[flags])[0]
            settled = bytearray(value)
            due = struct.unpack("=I", value[self._at["deadline"]])[0]
            settled[self._at["deadline"]] = struct.pack("=I", due + _SETTLED_TICKS)
            settled[flags] = struct.pack("=H", old | TRACK_ASSURED)
            settled[state] = bytes([STATES.index(_SETTLED[key[36]])])
            chosen[key] = bytes(settled)
        keys, values = b"".join(chosen), b"".join(chosen.values())
        self.maps["kpb_flows"].update_batch(keys, values, len(chosen))

    def age(self, but: Collection[str] = ()) -> None:
        """Make all flows as old as can be, except those in some states."""
        at = self._at["deadline"]
        chosen = {
            key: value[: at.start] + _LONG_AGO + value[at.stop :]
            for key, value in self.table().items()
            if self.state(value) not in but
        }
        keys, values = b"".join(chosen), b"".join(chosen.values())
        self.maps["kpb_flows"].update_batch(keys, values, len(chosen))
