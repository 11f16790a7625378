# SPDX-License-Identifier: Apache-2.0
"""Mounts of a test's own, also where the root directory is no mount point: in a chroot."""

from __future__ import annotations

from pathlib import Path


def own_mounts() -> list[str]:
    """``unshare`` with mounts that nobody else sees.

    Of a chroot's root that cannot be said; mounts below it are as private as who made it left them.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    private = any(line.split()[4] == "/" for line in lines)
    return ["unshare", "--mount", f"--propagation={'private' if private else 'unchanged'}"]
