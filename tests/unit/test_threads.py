# SPDX-License-Identifier: Apache-2.0
"""Threads that cannot be made: a node without process ids is a failure among others."""

from __future__ import annotations

from threading import Thread

import pytest

from kubeproxy_bpf.dataplane.netns import run_in_each
from kubeproxy_bpf.threads import in_own_thread


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)


async def test_work_in_a_thread_of_its_own_is_refused() -> None:
    """Who asked gets an error of the system, which all of them expect."""
    with pytest.raises(OSError, match="new thread"):
        await in_own_thread(int)


def test_namespaces_are_not_entered() -> None:
    """The task that ends sockets of removed backends logs it and goes on."""
    with pytest.raises(OSError, match="new thread"):
        run_in_each([], int)
