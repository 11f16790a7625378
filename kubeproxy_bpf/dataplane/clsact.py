# SPDX-License-Identifier: Apache-2.0
"""Programs at devices by clsact filters, for kernels without tcx.

A filter lives without this process until somebody deletes it, so there is nothing to pin: ours is
known by its priority and handle, and its name tells which program it runs. Filters of others are
left alone; a clsact qdisc goes with our last filter only if nobody else uses it, and this process
made it or is told to leave nothing. Called by ``devices`` and ``inventory``. pyroute2 is imported
late, since it weighs 10 MB.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from socket import if_indextoname, if_nameindex
from typing import Any, Callable, Iterable, Iterator

from kubeproxy_bpf.dataplane.places import NO_LONGER_FIRST, Hold, Hook, Place
from kubeproxy_bpf.libbpf import ObjectProgram

_PARENT = {Hook.INGRESS: 0xFFFFFFF2, Hook.EGRESS: 0xFFFFFFF3}
_PRIORITY = 1
_HANDLE = 0x6B7062  # "kpb"
_ALL_PROTOCOLS = 3
_NAME_PREFIX = "kpb_"
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
"""How the kernel says that there is no filter, no device, or no qdisc."""


class ClsactFilters:
    """Makes and finds our filters in the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._session: Any = None
        self._own_qdiscs: set[int] = set()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Use one netlink socket for all that is done inside, in this thread."""
        with self._netlink() as route:
            self._session = route
            try:
                yield
            finally:
                self._session = None

    def attach(self, place: Place, program: ObjectProgram) -> ClsactHold:
        """Add our filter, or swap the program of the one that is there."""
        name = f"{program.name}:{program.info().id}"
        with self._netlink() as route:
            if _ensure_qdisc(route, place.ifindex):
                self._own_qdiscs.add(place.ifindex)
            found = _filters(route, place.ifindex, place.hook)
            if any(map(_is_ours, found)) and not _is_ours(found[0]):
                # Within a priority the newest comes first.
                _delete(route, place)
            route.tc(
                "replace-filter", "bpf", fd=program.fd, name=name, direct_action=True, **_key(place)
            )
        return ClsactHold(self, place, name)

    def detach(self, place: Place) -> None:
        """Delete our filter, and the qdisc with the last one, if it is ours and of no other use."""
        with self._netlink() as route:
            self._delete(route, place)

    def fault(self, place: Place, name: str) -> str | None:
        """Compare what is there with our filter of this name."""
        with self._netlink() as route:
            found = _filters(route, place.ifindex, place.hook)
        ours = [each for each in found if _is_ours(each)]
        if not ours:
            if_indextoname(place.ifindex)  # netlink does not tell whether the device is gone
            return "detached"
        if _name(ours[0]) != name:
            return "replaced"
        return None if found[0] is ours[0] else NO_LONGER_FIRST

    def remove_all(self) -> int:
        """Delete all our filters, and the qdiscs that are empty then; return how many filters.

        An empty clsact does nothing, and who made it is not known to the process that cleans up.
        """
        self._own_qdiscs.update(index for index, _ in if_nameindex())
        return self.remove_others(())

    def remove_others(self, kept: Iterable[Place]) -> int:
        """Delete our filters everywhere but at some places; return how many."""
        places = {(place.ifindex, place.hook) for place in kept}
        count = 0
        with self._netlink() as route:
            for ifindex, device in if_nameindex():
                for hook in _PARENT:
                    if (ifindex, hook) in places:
                        continue
                    if any(map(_is_ours, _filters(route, ifindex, hook))):
                        self._delete(route, Place(ifindex, device, hook))
                        count += 1
        return count

    def _delete(self, route: Any, place: Place) -> None:
        _delete(route, place)
        index = place.ifindex
        if index in self._own_qdiscs and not any(_filters(route, index, h) for h in _PARENT):
            self._own_qdiscs.discard(index)
            _unless_absent(lambda: route.tc("del", "clsact", index))

    @contextmanager
    def _netlink(self) -> Iterator[Any]:
        """A netlink socket; its refusals are OSErrors, as those of bpf(2)."""
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            if self._session is not None:
                yield self._session
            else:
                with IPRoute() as route:
                    yield route
        except NetlinkError as error:
            raise OSError(error.code, str(error)) from error


class ClsactHold(Hold):
    """Our filter, which stands before all others of its hook."""

    def __init__(self, filters: ClsactFilters, place: Place, name: str) -> None:
        self._filters = filters
        self._place = place
        self._name = name

    def fault(self) -> str | None:
        return self._filters.fault(self._place, self._name)

    def detach(self) -> None:
        self._filters.detach(self._place)

    def close(self) -> None:
        """Nothing is open."""


def _key(place: Place) -> dict[str, int]:
    return {
        "index": place.ifindex,
        "parent": _PARENT[place.hook],
        "handle": _HANDLE,
        "prio": _PRIORITY,
        "protocol": _ALL_PROTOCOLS,
    }


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
        if error.code in _ABSENT:
            return []
        raise


def _is_ours(found: Any) -> bool:
    return (
        found["handle"] == _HANDLE
        and found["info"] >> 16 == _PRIORITY
        and found.get_attr("TCA_KIND") == "bpf"
        and _name(found).startswith(_NAME_PREFIX)
    )


def _name(found: Any) -> str:
    return found.get_nested("TCA_OPTIONS", "TCA_BPF_NAME") or ""


def _delete(route: Any, place: Place) -> None:
    _unless_absent(lambda: route.tc("del-filter", "bpf", **_key(place)))


def _unless_absent(delete: Callable[[], object]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        delete()
    except NetlinkError as error:
        if error.code not in _ABSENT:
            raise
