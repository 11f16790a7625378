# SPDX-License-Identifier: Apache-2.0
"""The image, built once for all tests of this folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.packaging.conftest import kube  # noqa: F401
from tests.e2e.packaging.container import Rootfs
from tests.mounting import own_mounts

_BUILDER = Path(__file__).with_name("builder.py")


@pytest.fixture(scope="session")
def rootfs() -> Rootfs:
    """What the Dockerfile's steps leave; steps that nothing changed for are not run again."""
    argv = [*own_mounts(), sys.executable, str(_BUILDER)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    assert not done.returncode, "the Dockerfile's steps failed; see the output above"
    stage = json.loads(done.stdout)
    assert ["/usr/local/bin/kube-proxy"] == stage["entrypoint"]
    return Rootfs(list(reversed(stage["layers"])), [], stage["env"])
