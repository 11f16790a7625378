# SPDX-License-Identifier: Apache-2.0
"""What an earlier process knew stands in at the store, until the lists replace it as a whole."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.objects import ObjectKey, ServiceCIDR
from kubeproxy_bpf.api.source import node_store
from kubeproxy_bpf.api.store import State, Store
from tests.unit.api.test_store import Journal, by_key, node, slice_

SLICE, CIDR = Kind.ENDPOINT_SLICE, Kind.SERVICE_CIDR
A, B = ObjectKey("d", "a"), ObjectKey("d", "b")
RANGE = ServiceCIDR("kubernetes", ("10.96.0.0/16",))
RECALLED: dict[Kind, dict[ObjectKey, ApiObject]] = {
    SLICE: by_key(slice_("a"), slice_("b")),
    Kind.NODE: by_key(node("192.0.2.1")),
    CIDR: by_key(RANGE),
}


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def store(journal: Journal) -> Store:
    made = node_store()
    made.subscribe(journal)
    made.recall(RECALLED)
    return made


def finish(store: Store, *slices: ApiObject) -> None:
    """The lists of all that is required."""
    store.sink(Kind.POD).unavailable()
    store.sink(Kind.SERVICE).replace({}, ())
    store.sink(Kind.NODE).replace(by_key(node("192.0.2.1")), ())
    store.sink(SLICE).replace(by_key(*slices), ())


def test_it_is_told_at_once_and_as_what_it_is(store: Store, journal: Journal) -> None:
    """Every object, and then that it was a memory; the lists are as unknown as before."""
    assert (SLICE, A, None, slice_("a")) in journal.told and "recalled" == journal.told[-1]
    assert 5 == len(journal.told) and not store.synced
    assert State.PENDING is store.state(SLICE) and SLICE in store.missing()


def test_nothing_more_is_told_before_all_lists_are_complete(store: Store, journal: Journal) -> None:
    """Half of the lists and half of a memory fit together no better than half of the lists."""
    journal.told.clear()
    store.sink(SLICE).replace(by_key(slice_("c")), ())
    store.sink(Kind.SERVICE).replace({}, ())
    assert not journal.told


def test_the_lists_tell_what_is_different(store: Store, journal: Journal) -> None:
    """What is missing goes, what changed changes, what is equal is no news."""
    journal.told.clear()
    finish(store, slice_("a"), slice_("b", "other"), slice_("c"))
    assert "synced" == journal.told.pop()
    assert [
        (SLICE, B, slice_("b"), slice_("b", "other")),
        (SLICE, ObjectKey("d", "c"), None, slice_("c")),
    ] == journal.told
    journal.told.clear()
    store.sink(SLICE).replace({}, ())
    assert 3 == len(journal.told), "from then on it is a store like any other"


def test_what_the_lists_lack_goes(store: Store, journal: Journal) -> None:
    """A Service that was deleted while the node was down."""
    journal.told.clear()
    finish(store, slice_("b"))
    assert [(SLICE, A, slice_("a"), None), "synced"] == journal.told


def test_a_list_that_nobody_waits_for_replaces_when_it_comes(
    store: Store, journal: Journal
) -> None:
    """ServiceCIDRs are served from memory until they are listed, or known not to be shown."""
    finish(store)
    assert {RANGE.key: RANGE} == store.objects(CIDR)
    journal.told.clear()
    store.sink(CIDR).unavailable()
    assert [(CIDR, RANGE.key, RANGE, None)] == journal.told


def test_what_cannot_be_read_any_more_keeps_what_was_known(store: Store, journal: Journal) -> None:
    """The memory is the last good version of it."""
    store.sink(SLICE).replace({}, {A})
    assert {A: slice_("a")} == store.objects(SLICE) and not store.unreadable


def test_a_list_that_is_here_is_not_overwritten(journal: Journal) -> None:
    """It is told when all are; until then the memory is told as a whole."""
    store = node_store()
    store.subscribe(journal)
    store.sink(SLICE).replace(by_key(slice_("c")), ())
    store.recall(RECALLED)
    assert (SLICE, A, None, slice_("a")) in journal.told
    assert {ObjectKey("d", "c")} == set(store.objects(SLICE))
    journal.told.clear()
    finish(store, slice_("c"))
    changed = {change[1].name for change in journal.told if isinstance(change, tuple)}
    assert {"a", "b", "c"} == changed


def test_who_comes_later_is_told_the_same(store: Store) -> None:
    """Before the lists the memory, after them only what is true."""
    early, late = Journal(), Journal()
    store.subscribe(early)
    assert "recalled" == early.told[-1]
    finish(store, slice_("a"))
    store.subscribe(late)
    assert "recalled" not in late.told and "synced" == late.told[-1]
    assert (SLICE, B, slice_("b"), None) in early.told


def test_it_is_too_late_once_everything_is_known(journal: Journal) -> None:
    """And once is enough."""
    store = node_store()
    finish(store, slice_("c"))
    store.subscribe(journal)
    journal.told.clear()
    store.recall(RECALLED)
    assert not journal.told and {ObjectKey("d", "c")} == set(store.objects(SLICE))
