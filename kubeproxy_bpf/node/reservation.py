# SPDX-License-Identifier: Apache-2.0
"""Keeps the kernel from giving the ports of masqueraded flows to the host's own sockets.

Where they overlap the range of automatic ports they are added to ip_local_reserved_ports, beside
what others reserved. What was added is written down in a journal, before it is done, so that
``undo`` takes back exactly that; a journal of another boot or network namespace is void, since the
sysctl is theirs. Called by ``instance`` at the start, in a thread; by a cleanup at the end.
"""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Iterable, NamedTuple

import structlog

_log = structlog.get_logger(__name__)

_SYSCTLS = Path("/proc/sys/net/ipv4")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Ports = frozenset[int]


class Reservation(NamedTuple):
    """What came of it."""

    wanted: Ports
    """Ports that are the flows' and that the kernel would give to sockets."""
    added: Ports
    """Those that nobody else had reserved."""


class PortReservation:
    """The reservation of one instance in the network namespace of the calling thread."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal

    def reserve(self, first: int, last: int) -> Reservation:
        """Reserve what sockets could get of these ports; give back what was reserved before.

        Raises:
            OSError: the sysctl or the journal cannot be written.
        """
        wanted = Ports(range(first, last + 1)) & _automatic()
        before = self._added_before()
        current = _reserved()
        others = current - before
        added = wanted - others
        if current == others | added and added == before:
            return Reservation(wanted, added)
        self._write(before | added)
        _set_reserved(others | added)
        self._write(added)
        return Reservation(wanted, added)

    def undo(self) -> Ports:
        """Take back what ``reserve`` added, in whatever process that was; tell which ports."""
        added = self._added_before() & _reserved()
        if added:
            _set_reserved(_reserved() - added)
        self._journal.unlink(missing_ok=True)
        return added

    def _added_before(self) -> Ports:
        try:
            entry = json.loads(self._journal.read_text())
            if entry["place"] != _place():
                return Ports()
            return parse_ports(entry["added"])
        except FileNotFoundError:
            return Ports()
        except (ValueError, KeyError, TypeError) as error:
            # Better to leave ports reserved than to take away somebody else's.
            _log.warning("journal_unreadable", journal=str(self._journal), error=str(error))
            return Ports()

    def _write(self, added: Ports) -> None:
        if not added:
            self._journal.unlink(missing_ok=True)
            return
        self._journal.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = json.dumps({"place": _place(), "added": format_ports(added)})
        new = self._journal.with_suffix(".new")
        new.write_text(text)
        new.replace(self._journal)


def parse_ports(text: str) -> Ports:
    """The kernel's notation: "80,8080-8090"."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return Ports(found)


def format_ports(ports: Iterable[int]) -> str:
    """The kernel's notation, shortest form."""
    # Ports in a row keep the same distance from their place in the sorted list.
    runs = groupby(enumerate(sorted(ports)), key=lambda item: item[1] - item[0])
    parts = []
    for _, run in runs:
        numbers = [port for _, port in run]
        parts.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ",".join(parts)


def _automatic() -> Ports:
    first, last = (_SYSCTLS / "ip_local_port_range").read_text().split()
    return Ports(range(int(first), int(last) + 1))


def _reserved() -> Ports:
    return parse_ports((_SYSCTLS / "ip_local_reserved_ports").read_text())


def _set_reserved(ports: Ports) -> None:
    # An empty text changes nothing: the kernel clears the list for a newline.
    (_SYSCTLS / "ip_local_reserved_ports").write_text(format_ports(ports) + "\n")


def _place() -> str:
    """This boot and this network namespace: whose sysctl it is."""
    namespace = os.stat("/proc/thread-self/ns/net")
    return f"{_BOOT_ID.read_text().strip()} {namespace.st_dev}:{namespace.st_ino}"
