# SPDX-License-Identifier: Apache-2.0
"""Named network namespaces share their directory with `ip netns`, and leave it as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_bpf.sandbox import namespace

pytestmark = pytest.mark.root


def test_preparing_twice_mounts_once() -> None:
    """The shared directory is mounted once, however often a sandbox is built."""
    namespace.prepare()
    before = Path("/proc/self/mountinfo").read_text()
    namespace.prepare()
    assert Path("/proc/self/mountinfo").read_text() == before
    assert namespace.is_mounted(namespace.RUN_NETNS)
