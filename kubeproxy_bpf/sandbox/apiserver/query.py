# SPDX-License-Identifier: Apache-2.0
"""The options of a list or watch, read from the query string and checked as a real server does."""

from __future__ import annotations

import base64
import binascii
from typing import Mapping, NamedTuple

import msgspec

from .resources import Key, Resource
from .selectors import Selector, parse_fields, parse_labels
from .status import StatusError, bad_option


class Cursor(msgspec.Struct):
    """Content of a continue token: the snapshot that is read, and the last key already sent."""

    version: int
    namespace: str
    name: str

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)

    def token(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def cursor_of(token: str) -> Cursor:
    try:
        return msgspec.json.decode(
            base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=Cursor
        )
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise StatusError(400, "continue key is not valid: encoded key cannot be read") from error


class ListQuery(NamedTuple):
    selector: Selector
    watch: bool
    version: int | None
    """None when unset: the most recent state."""
    match: str
    """resourceVersionMatch: empty, Exact or NotOlderThan."""
    limit: int
    cursor: Cursor | None
    bookmarks: bool
    initial_events: bool | None
    """None when unset, which depends on the version for a watch."""
    timeout_s: float | None

    @property
    def exact(self) -> bool:
        """Whether exactly ``version`` is asked for; an old form is a limit with a version."""
        if not self.version:
            return False
        return self.match == "Exact" or (not self.match and self.limit > 0)


def list_query(query: Mapping[str, str], resource: Resource) -> ListQuery:
    token = query.get("continue", "")
    parsed = ListQuery(
        Selector(
            parse_labels(query.get("labelSelector", "")),
            parse_fields(query.get("fieldSelector", ""), resource),
        ),
        flag(query, "watch"),
        _version(query.get("resourceVersion", "")),
        query.get("resourceVersionMatch", ""),
        _number(query, "limit"),
        cursor_of(token) if token else None,
        flag(query, "allowWatchBookmarks"),
        flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None,
        _number(query, "timeoutSeconds") or None,
    )
    _check_match(parsed)
    _check_initial_events(parsed)
    return parsed


def flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name)
    return value is not None and value.lower() not in ("0", "false")


def _number(query: Mapping[str, str], name: str) -> int:
    try:
        return max(0, int(query.get(name) or 0))
    except ValueError:
        raise StatusError(400, f"{name}: invalid number {query[name]!r}") from None


def _version(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise bad_option("resourceVersion", f'Invalid value: "{text}": not a number')
    return int(text)


def _check_match(query: ListQuery) -> None:
    field = "resourceVersionMatch"
    if query.match not in ("", "Exact", "NotOlderThan"):
        raise bad_option(field, f'Unsupported value: "{query.match}"')
    if query.cursor and (query.match or query.version):
        raise bad_option("resourceVersion", "Forbidden: must not be given with continue")
    if query.watch or not query.match:
        return
    if query.version is None:
        raise bad_option(field, "Forbidden: needs resourceVersion")
    if query.match == "Exact" and query.version == 0:
        raise bad_option(field, 'Forbidden: "Exact" is forbidden for resourceVersion "0"')


def _check_initial_events(query: ListQuery) -> None:
    given = query.initial_events is not None
    if given and not query.watch:
        raise bad_option("sendInitialEvents", "Forbidden: only for watches")
    if given and query.match != "NotOlderThan":
        raise bad_option("resourceVersionMatch", "Forbidden: sendInitialEvents needs NotOlderThan")
    if query.watch and query.match and not given:
        raise bad_option("resourceVersionMatch", "Forbidden: needs sendInitialEvents in a watch")
