# SPDX-License-Identifier: Apache-2.0
"""Programs at devices by clsact filters, for kernels without tcx.

A filter lives without this process until somebody deletes it, so there is nothing to pin: ours is
known by its priority and handle, and its name tells which program it runs. Qdiscs and filters of
others are left alone; a clsact qdisc goes with our last filter only if this process made it and
nobody else uses it. Called by ``devices``. pyroute2 is imported late, since it weighs 10 MB.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import Any, Iterable, Iterator

from kubeproxy_bpf.dataplane.places import Hold, Hook, Place
from kubeproxy_bpf.libbpf import ObjectProgram

_PARENT = {Hook.INGRESS: 0xFFFFFFF2, Hook.EGRESS: 0xFFFFFFF3}
_PRIORITY = 1
_HANDLE = 0x6B7062  # "kpb"
_ALL_PROTOCOLS = 3
_NAME_PREFIX = "kpb_"


class ClsactHold(Hold):
    """Our filter, which stands before all others of its hook."""

    def __init__(self, place: Place, name: str, own_qdisc: bool) -> None:
        self._place = place
        self._name = name
        self._own_qdisc = own_qdisc

    @classmethod
    def attach(cls, place: Place, program: ObjectProgram) -> ClsactHold:
        """Add our filter, or swap the program of the one that is there."""
        name = f"{program.name}:{program.info().id}"
        with _route() as route:
            own_qdisc = _ensure_qdisc(route, place.ifindex)
            filters = _filters(route, place.ifindex, place.hook)
            if any(map(_is_ours, filters)) and not _is_ours(filters[0]):
                # Within a priority the newest comes first.
                _delete(route, place)
            route.tc(
                "replace-filter",
                "bpf",
                index=place.ifindex,
                handle=_HANDLE,
                parent=_PARENT[place.hook],
                prio=_PRIORITY,
                protocol=_ALL_PROTOCOLS,
                fd=program.fd,
                name=name,
                direct_action=True,
            )
        return cls(place, name, own_qdisc)

    def fault(self) -> str | None:
        with _route() as route:
            filters = _filters(route, self._place.ifindex, self._place.hook)
        ours = [each for each in filters if _is_ours(each)]
        if not ours:
            return "detached"
        if _name(ours[0]) != self._name:
            return "replaced"
        return None if filters[0] is ours[0] else "no longer first"

    def detach(self) -> None:
        with _route() as route:
            _delete(route, self._place)
            if self._own_qdisc and not any(
                _filters(route, self._place.ifindex, hook) for hook in _PARENT
            ):
                _tolerate_absence(lambda: route.tc("del", "clsact", self._place.ifindex))

    def close(self) -> None:
        """Nothing is open."""


def remove_ours(ifindexes: Iterable[int], but: Iterable[Place]) -> int:
    """Delete our filters on these devices, those of some places excepted; return how many."""
    kept = {(place.ifindex, place.hook) for place in but}
    count = 0
    with _route() as route:
        for ifindex in ifindexes:
            for hook in _PARENT:
                if (ifindex, hook) in kept:
                    continue
                if any(map(_is_ours, _filters(route, ifindex, hook))):
                    _delete(route, Place(ifindex, "", hook))
                    count += 1
    return count


@contextmanager
def _route() -> Iterator[Any]:
    """A netlink socket of the calling thread; its refusals are OSErrors, as those of bpf(2)."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from error


def _ensure_qdisc(route: Any, ifindex: int) -> bool:
    """Add clsact; False if it was there before."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        route.tc("add", "clsact", ifindex)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
        return False
    return True


def _filters(route: Any, ifindex: int, hook: Hook) -> list[Any]:
    """The filters of a hook in order of execution; none where there is no clsact."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        found = route.get_filters(index=ifindex, parent=_PARENT[hook])
        # Each priority shows itself, without a handle, before its filters.
        return [each for each in found if each["handle"]]
    except NetlinkError as error:
        if error.code in (errno.EINVAL, errno.ENOENT):
            return []
        raise


def _is_ours(found: Any) -> bool:
    return (
        found["handle"] == _HANDLE
        and found["info"] >> 16 == _PRIORITY
        and found.get("kind") == "bpf"
        and _name(found).startswith(_NAME_PREFIX)
    )


def _name(found: Any) -> str:
    options = found.get("options")
    return (options and options.get("name")) or ""


def _delete(route: Any, place: Place) -> None:
    _tolerate_absence(
        lambda: route.tc(
            "del-filter",
            "bpf",
            index=place.ifindex,
            handle=_HANDLE,
            parent=_PARENT[place.hook],
            prio=_PRIORITY,
            protocol=_ALL_PROTOCOLS,
        )
    )


def _tolerate_absence(delete: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        delete()
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise
