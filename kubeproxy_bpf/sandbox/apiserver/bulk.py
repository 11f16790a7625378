# SPDX-License-Identifier: Apache-2.0
"""A large cluster of realistic objects, rendered as bytes straight into the store, for ``make bench``."""

from __future__ import annotations

from typing import NamedTuple

from .store import Store


class Shape(NamedTuple):
    services: int
    endpoints: int
    """Per Service, in one EndpointSlice."""

    @classmethod
    def parse(cls, text: str) -> Shape:
        services, _, endpoints = text.partition("x")
        return cls(int(services), int(endpoints))


def fill(store: Store, shape: Shape) -> None:
    """Put the cluster into the store."""
