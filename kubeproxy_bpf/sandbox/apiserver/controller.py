# SPDX-License-Identifier: Apache-2.0
"""Makes EndpointSlices from Services and Pods, as the cluster's own controller does."""

from __future__ import annotations

from .store import Store


class SliceController:
    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self) -> None:
        """Follow the store."""

    async def stop(self) -> None:
        """Stop following it."""
