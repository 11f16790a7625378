# SPDX-License-Identifier: Apache-2.0
"""What leaves the store, and when."""

from __future__ import annotations

from typing import Collection

from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.objects import EndpointSlice, Node, ObjectKey
from kubeproxy_bpf.api.source import node_store
from kubeproxy_bpf.api.store import State, Store, anything

Change = tuple[Kind, ObjectKey, ApiObject | None, ApiObject | None]


class Journal:
    def __init__(self) -> None:
        self.told: list[Change | str] = []

    def on_change(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        self.told.append((kind, key, old, new))

    def on_recalled(self) -> None:
        self.told.append("recalled")

    def on_synced(self) -> None:
        self.told.append("synced")


def slice_(name: str, service: str = "s") -> EndpointSlice:
    return EndpointSlice("d", name, service, False, "IPv4", (), (), ())


def node(*addresses: str) -> Node:
    return Node("n1", "", (), tuple(("InternalIP", a) for a in addresses), False, ())


def by_key(*objects: ApiObject) -> dict[ObjectKey, ApiObject]:
    return {o.key: o for o in objects}


def opened() -> tuple[Store, Journal]:
    """A store that is synced with one slice, a, and a journal that starts after that."""
    store, journal = Store(), Journal()
    store.sink(Kind.SERVICE).replace({}, ())
    store.sink(Kind.ENDPOINT_SLICE).replace(by_key(slice_("a")), ())
    store.subscribe(journal)
    journal.told.clear()
    return store, journal


def test_nothing_leaves_before_all_required_lists_are_complete() -> None:
    """Only Services: silence. Services and slices: everything at once, then "synced" [K8]."""
    store, journal = Store(), Journal()
    store.subscribe(journal)
    store.sink(Kind.ENDPOINT_SLICE).replace(by_key(slice_("a")), ())
    store.sink(Kind.ENDPOINT_SLICE).upsert(ObjectKey("d", "b"), slice_("b"))
    store.sink(Kind.ENDPOINT_SLICE).remove(ObjectKey("d", "a"))
    assert not journal.told and store.missing() == (Kind.SERVICE,)
    store.sink(Kind.SERVICE).replace({}, ())
    key = ObjectKey("d", "b")
    assert journal.told == [(Kind.ENDPOINT_SLICE, key, None, slice_("b")), "synced"]


def test_a_new_list_tells_only_differences() -> None:
    """Equal objects are no news and the old one is kept, the missing are gone, the new are new."""
    store, journal = opened()
    kept = store.objects(Kind.ENDPOINT_SLICE)[ObjectKey("d", "a")]
    store.sink(Kind.ENDPOINT_SLICE).replace(by_key(slice_("a"), slice_("b")), ())
    assert [c[1].name for c in journal.told if c != "synced"] == ["b"]
    assert store.objects(Kind.ENDPOINT_SLICE)[ObjectKey("d", "a")] is kept
    journal.told.clear()
    store.sink(Kind.ENDPOINT_SLICE).replace(by_key(slice_("b")), ())
    assert journal.told == [(Kind.ENDPOINT_SLICE, ObjectKey("d", "a"), slice_("a"), None)]


def test_kept_keys_survive_a_list_without_them() -> None:
    """Objects that are there but unreadable are not missing; None keeps every one."""
    store, journal = opened()
    store.sink(Kind.ENDPOINT_SLICE).replace({}, {ObjectKey("d", "a")})
    store.sink(Kind.ENDPOINT_SLICE).replace({}, None)
    assert not journal.told
    store.sink(Kind.ENDPOINT_SLICE).replace({}, ())
    assert len(journal.told) == 1


def test_removing_what_is_unknown_is_silent() -> None:
    """A delete of an object that we never had tells nobody."""
    store, journal = opened()
    store.sink(Kind.ENDPOINT_SLICE).remove(ObjectKey("d", "z"))
    assert not journal.told


def test_the_node_is_awaited_with_its_addresses_until_waived() -> None:
    """Listed but without addresses is not enough; giving up opens the store [K2]."""
    store, journal = node_store(), Journal()
    store.subscribe(journal)
    store.sink(Kind.SERVICE).replace({}, ())
    store.sink(Kind.ENDPOINT_SLICE).replace({}, ())
    store.sink(Kind.POD).replace({}, ())
    store.sink(Kind.NODE).replace(by_key(node()), ())
    assert store.missing() == (Kind.NODE,) and not journal.told
    store.sink(Kind.NODE).upsert(ObjectKey("", "n1"), node("10.0.0.1"))
    assert journal.told[-1] == "synced"
    waived = node_store()
    waived.sink(Kind.SERVICE).replace({}, ())
    waived.sink(Kind.ENDPOINT_SLICE).replace({}, ())
    waived.sink(Kind.POD).unavailable()
    waived.waive(Kind.NODE)
    waived.waive(Kind.NODE)
    assert waived.synced


def test_unavailable_is_not_empty() -> None:
    """What may not be read keeps what was known, opens nothing and is visible as such."""
    store = Store()
    store.sink(Kind.SERVICE).unavailable()
    store.sink(Kind.ENDPOINT_SLICE).replace({}, ())
    assert store.state(Kind.SERVICE) is State.UNAVAILABLE and not store.synced
    assert store.state(Kind.POD) is State.PENDING


def test_a_late_subscriber_is_told_everything() -> None:
    """Who comes after the sync hears the whole state, then "synced"."""
    store, _ = opened()
    late = Journal()
    store.subscribe(late)
    assert len(late.told) == 2 and late.told[-1] == "synced"


def test_an_optional_kind_may_be_listed_or_unavailable():
    """Pods are waited for, so that host ports do not look deleted, unless we may not see them."""
    for settle in (lambda s: s.replace({}, ()), lambda s: s.unavailable()):
        store = Store({Kind.SERVICE: anything, Kind.POD: anything}, optional=(Kind.POD,))
        store.sink(Kind.SERVICE).replace({}, ())
        assert not store.synced

        settle(store.sink(Kind.POD))
        assert store.synced


A, B = ObjectKey("d", "a"), ObjectKey("d", "b")


def half_read(keep: Collection[ObjectKey] | None) -> tuple[Store, Journal]:
    """A store that is synced although slices of the list could not be read."""
    store, journal = Store(), Journal()
    store.subscribe(journal)
    store.sink(Kind.SERVICE).replace({}, ())
    store.sink(Kind.ENDPOINT_SLICE).replace({}, keep)
    assert journal.told == ["synced"]
    journal.told.clear()
    return store, journal


def test_synced_is_said_again_when_all_could_be_read_in_the_end() -> None:
    """Whether what was unreadable becomes readable, goes, or is not in the next list."""
    store, journal = half_read({A, B})
    slices = store.sink(Kind.ENDPOINT_SLICE)
    assert store.unreadable == {(Kind.ENDPOINT_SLICE, A), (Kind.ENDPOINT_SLICE, B)}
    slices.upsert(A, slice_("a"))
    assert store.unreadable == {(Kind.ENDPOINT_SLICE, B)} and "synced" not in journal.told
    slices.remove(B)
    assert not store.unreadable and journal.told[1:] == ["synced"]

    store, journal = half_read(None)
    store.sink(Kind.ENDPOINT_SLICE).replace({}, {A})
    assert store.unreadable == {(Kind.ENDPOINT_SLICE, A)} and not journal.told
    store.sink(Kind.ENDPOINT_SLICE).replace({}, ())
    assert not store.unreadable and journal.told == ["synced"]


def test_what_was_known_before_it_became_unreadable_is_not_unknown() -> None:
    """Its last good version stands, and synced is said once."""
    store, journal = opened()
    store.sink(Kind.ENDPOINT_SLICE).replace({}, {A})
    store.sink(Kind.ENDPOINT_SLICE).upsert(A, slice_("a", "other"))
    assert not store.unreadable and "synced" not in journal.told
