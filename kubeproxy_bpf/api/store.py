# SPDX-License-Identifier: Apache-2.0
"""The latest objects by kind and key, and who hears of their changes.

Nothing leaves the store before every required resource is known in full ("not yet known" is not
"deleted"): then all objects leave at once, followed by ``on_synced``, and changes one by one after
that. Reflectors fill it, the sync loop subscribes. It holds no clock and makes no decision about
Services.

Before that, what an earlier process knew may stand in (``recall``). Subscribers hear of it at once,
as of something that is not known to be true or complete; and when the lists are complete, of what
is different from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Callable, Collection, Iterable, Mapping, Protocol

from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.intake import Sink
from kubeproxy_bpf.api.objects import ObjectKey

Objects = Mapping[ObjectKey, ApiObject]
Recalled = Mapping[Kind, Objects]


class State(Enum):
    PENDING = "pending"
    """Never listed in full."""
    LISTED = "listed"
    UNAVAILABLE = "unavailable"
    """The server refuses to show it. Not the same as empty."""


class Subscriber(Protocol):
    """Who wants to know what changed."""

    def on_change(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        """``old`` None: it appeared; ``new`` None: it is gone."""
        ...

    def on_recalled(self) -> None:
        """What was told is what an earlier process knew; ``on_synced`` is still to come."""
        ...

    def on_synced(self) -> None:
        """Everything required is known, and has been told. Said again when ``Store.unreadable``
        has become empty after that."""
        ...


_UNNAMED = ObjectKey("", "")
"""Stands for unreadable objects whose name is unreadable too."""


class _Bucket:
    """The objects of one kind; the sink of its reflector."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._store = store
        self.kind = kind
        self.state = State.PENDING
        self.objects: dict[ObjectKey, ApiObject] = {}
        self.unreadable: set[ObjectKey] = set()

    def replace(self, objects: Objects, keep: Collection[ObjectKey] | None) -> None:
        missing = self.objects.keys() - objects.keys()
        missing = set() if keep is None else missing.difference(keep)
        self.unreadable = {_UNNAMED} if keep is None else set(keep).difference(self.objects)
        self.state = State.LISTED
        for key in missing:
            self._set(key, None)
        for key, new in objects.items():
            self._set(key, new)
        self._store.settle()

    def upsert(self, key: ObjectKey, new: ApiObject) -> None:
        self.unreadable.discard(key)
        self._set(key, new)
        self._store.settle()

    def remove(self, key: ObjectKey) -> None:
        self.unreadable.discard(key)
        self._set(key, None)
        self._store.settle()

    def unavailable(self) -> None:
        if self.state is State.PENDING:
            for key in tuple(self.objects):  # recalled ones
                self._set(key, None)
        self.state = State.UNAVAILABLE
        self._store.settle()

    def _set(self, key: ObjectKey, new: ApiObject | None) -> None:
        old = self.objects.get(key)
        # Equal content under a new resourceVersion is no change, and the old object stays: after a
        # relist nothing is held twice.
        if old == new:
            return
        if new is None:
            del self.objects[key]
        else:
            self.objects[key] = new
        self._store.changed(self.kind, key, old, new)


class Store:
    """The latest objects of all kinds; see the module."""

    def __init__(
        self,
        required: Mapping[Kind, Callable[[Objects], bool]] | None = None,
        optional: Collection[Kind] = (),
    ) -> None:
        """``required``: what must be listed before anything leaves, and when its content will do;
        by default Services and EndpointSlices in any number. For those of them that are
        ``optional`` it is as good to know that the server does not show them."""
        self._optional = optional
        self._buckets = {kind: _Bucket(self, kind) for kind in Kind}
        self._required = dict(
            required
            if required is not None
            else {Kind.SERVICE: anything, Kind.ENDPOINT_SLICE: anything}
        )
        self._subscribers: list[Subscriber] = []
        self._recalled: Recalled = {}
        """Told and not confirmed; empty once the lists are complete."""
        self.synced = False
        self._partial = False
        """Synced while something was unreadable."""

    def sink(self, kind: Kind) -> Sink:
        return self._buckets[kind]

    def objects(self, kind: Kind) -> Objects:
        """A live view; it is complete only when the kind's state is LISTED."""
        return self._buckets[kind].objects

    def uid(self, kind: Kind, key: ObjectKey) -> str:
        """The UID of an object that is known; empty for all others."""
        return getattr(self.objects(kind).get(key), "uid", "")

    def state(self, kind: Kind) -> State:
        return self._buckets[kind].state

    @property
    def unreadable(self) -> set[tuple[Kind, ObjectKey]]:
        """Objects that are there and of which no version could ever be read."""
        return {(kind, key) for kind, bucket in self._buckets.items() for key in bucket.unreadable}

    def subscribe(self, subscriber: Subscriber) -> None:
        """From now on; a late subscriber is first told everything."""
        self._subscribers.append(subscriber)
        if self.synced:
            self._tell_all((subscriber,))
        elif self._recalled:
            self._tell_recalled((subscriber,))

    def recall(self, objects: Recalled) -> None:
        """Let these stand in for what is not known yet; too late once everything is.

        A kind whose list is here already keeps it, but nobody hears of it before all are here:
        lists and memories do not fit together.
        """
        if self.synced or self._recalled:
            return
        self._recalled = objects
        for kind, of_kind in objects.items():
            bucket = self._buckets[kind]
            if bucket.state is State.PENDING:
                bucket.objects.update(of_kind)
        self._tell_recalled(self._subscribers)

    def waive(self, kind: Kind) -> None:
        """Wait no longer for this kind (the own Node after 30 s [K2])."""
        if self._required.pop(kind, None) is not None:
            self.settle()

    def missing(self) -> tuple[Kind, ...]:
        """The required kinds that are not known yet."""
        return tuple(kind for kind, enough in self._required.items() if not self._met(kind, enough))

    def settle(self) -> None:
        """Open the gate if everything required has come; say so again once all of it is read."""
        if not self.synced and not self.missing():
            self.synced = True
            self._partial = bool(self.unreadable)
            self._tell_all(self._subscribers)
        elif self._partial and not self.unreadable:
            self._partial = False
            for subscriber in self._subscribers:
                subscriber.on_synced()

    def changed(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        if self.synced:
            for subscriber in self._subscribers:
                subscriber.on_change(kind, key, old, new)

    def _met(self, kind: Kind, enough: Callable[[Objects], bool]) -> bool:
        bucket = self._buckets[kind]
        if bucket.state is State.UNAVAILABLE and kind in self._optional:
            return True
        return bucket.state is State.LISTED and enough(bucket.objects)

    def _tell_all(self, subscribers: Iterable[Subscriber]) -> None:
        """What is there, to those who know nothing, or nothing but what was recalled."""
        recalled, self._recalled = self._recalled, {}
        for subscriber in subscribers:
            for kind, bucket in self._buckets.items():
                told = recalled.get(kind, {})
                for key in told.keys() - bucket.objects.keys():
                    subscriber.on_change(kind, key, told[key], None)
                for key, new in bucket.objects.items():
                    old = told.get(key)
                    if old != new:
                        subscriber.on_change(kind, key, old, new)
            subscriber.on_synced()

    def _tell_recalled(self, subscribers: Iterable[Subscriber]) -> None:
        for subscriber in subscribers:
            for kind, objects in self._recalled.items():
                for key, new in objects.items():
                    subscriber.on_change(kind, key, None, new)
            subscriber.on_recalled()


def anything(objects: Objects) -> bool:
    """Any number of objects will do, none included."""
    return True
