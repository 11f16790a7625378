# SPDX-License-Identifier: Apache-2.0
"""Sandboxes for tests, and a picture of the machine to compare before and after."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.journal import existing
from kubeproxy_bpf.sandbox.teardown import take_down
from kubeproxy_bpf.sandbox.traces import traces as look

PREFIX = "kpbt-sb"


@pytest.fixture(autouse=True, scope="session")
def root() -> None:
    """Skip what needs root where there is none."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and control groups")


def traces() -> set[str]:
    """Everything on the machine that a sandbox of a test could leave behind."""
    return look(PREFIX) | {f"link {name}" for name in os.listdir("/sys/class/net")}


@pytest.fixture
def clean_machine() -> Iterator[set[str]]:
    """What there was before; whatever the test leaves of its own is removed after it."""
    before = existing()
    yield traces()
    for name in existing():
        if name.startswith(PREFIX) and name not in before:
            take_down(name)
