# SPDX-License-Identifier: Apache-2.0
"""One page of a list: which entries, at which version, and how to go on.

Pages of one list come from one snapshot: the continue token names its version, and the store undoes
its log to get there. Pure on top of the store; the ``http`` module writes the page out.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, Sequence

from .query import Cursor, ListQuery
from .resources import Target
from .status import StatusError, expired, too_large_version
from .store import Entry, Store


class Page(NamedTuple):
    version: int
    entries: Sequence[Entry]
    token: str = ""
    remaining: int | None = None
    """Objects after this page; unknown when a selector is at work, as on a real server."""


def page_of(store: Store, target: Target, query: ListQuery) -> Page:
    """The page that a list request asks for."""
    version, entries = _snapshot(store, target, query)
    if query.cursor:
        keys = [entry.key for entry in entries]
        entries = entries[bisect_right(keys, query.cursor.key) :]
    if target.namespace:
        entries = [entry for entry in entries if entry.key.namespace == target.namespace]
    if query.selector:
        entries = [e for e in entries if query.selector.matches(e.labels, e.field)]
    if not query.limit or len(entries) <= query.limit:
        return Page(version, entries)
    page = entries[: query.limit]
    remaining = None if query.selector else len(entries) - query.limit
    return Page(version, page, Cursor(version, *page[-1].key).token(), remaining)


def _snapshot(store: Store, target: Target, query: ListQuery) -> tuple[int, list[Entry]]:
    if query.cursor:
        try:
            version = query.cursor.version
            return version, store.snapshot(target.resource, version)
        except StatusError as error:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. "
                "You must start a new list without the continue parameter."
            ) from error
    if query.exact and query.version is not None:
        return query.version, store.snapshot(target.resource, query.version)
    if query.version and query.version > store.version:
        raise too_large_version(query.version, store.version)
    return store.version, store.snapshot(target.resource)
