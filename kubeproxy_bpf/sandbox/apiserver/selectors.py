# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors: parsing, and matching against the entries of the store.

A selector is a list of requirements that must all hold. ``parse_labels`` accepts what kubectl and
the client libraries send: ``a=b``, ``a==b``, ``a!=b``, ``a in (b,c)``, ``a notin (b)``, ``a``,
``!a``.
"""

from __future__ import annotations

import re
from typing import Callable, Iterable, Mapping, NamedTuple

from .resources import Resource
from .status import StatusError


class Requirement(NamedTuple):
    key: str
    operator: str
    """One of in, notin, exists, !exists."""
    values: frozenset[str] = frozenset()

    def holds(self, value: str | None) -> bool:
        """Whether a label with this value (None: no such label) satisfies the requirement."""
        if self.operator == "in":
            return value is not None and value in self.values
        if self.operator == "notin":
            return value is None or value not in self.values
        return (value is not None) == (self.operator == "exists")


_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_SET = re.compile(rf"\s*({_NAME})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUAL = re.compile(rf"\s*({_NAME})\s*(==|=|!=)\s*({_VALUE})?\s*")
_EXISTS = re.compile(rf"\s*(!?)\s*({_NAME})\s*")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    return tuple(_label_requirement(part) for part in _split(text))


def _split(text: str) -> Iterable[str]:
    """Split at the commas that are not within parentheses."""
    return re.split(r",(?![^(]*\))", text) if text.strip() else ()


def _label_requirement(part: str) -> Requirement:
    if found := _SET.fullmatch(part):
        values = frozenset(value.strip() for value in found[3].split(","))
        return Requirement(found[1], found[2], values)
    if found := _EQUAL.fullmatch(part):
        operator = "notin" if found[2] == "!=" else "in"
        return Requirement(found[1], operator, frozenset([found[3] or ""]))
    if found := _EXISTS.fullmatch(part):
        return Requirement(found[2], "!exists" if found[1] else "exists")
    raise StatusError(400, f"unable to parse requirement: {part!r}")


def parse_fields(text: str, resource: Resource) -> tuple[Requirement, ...]:
    """Parse a field selector; a field that the kind does not offer is a bad request."""
    known = {"metadata.name", "metadata.namespace", *resource.fields}
    found = []
    for part in _split(text):
        match = re.fullmatch(r"\s*([A-Za-z.]+)\s*(==|=|!=)(.*)", part)
        if match is None:
            raise StatusError(400, f"invalid field selector: {part!r}")
        if match[1] not in known:
            raise StatusError(
                400,
                f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match '
                f'field selector "{part}": field label not supported: {match[1]}',
            )
        operator = "notin" if match[2] == "!=" else "in"
        found.append(Requirement(match[1], operator, frozenset([match[3].strip()])))
    return tuple(found)


class Selector(NamedTuple):
    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, labels: Mapping[str, str], field: Callable[[str], str]) -> bool:
        """Whether an object with these labels and fields is selected."""
        return all(need.holds(labels.get(need.key)) for need in self.labels) and all(
            need.holds(field(need.key)) for need in self.fields
        )
