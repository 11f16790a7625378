# SPDX-License-Identifier: Apache-2.0
"""How many processors the machine has [J9]: as sysfs tells, whatever this container may use.

Called by ``sysctls``.
"""

from __future__ import annotations

import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")


def cpu_count(cpus: Path = CPUS) -> int:
    """The processors online; where sysfs tells nothing, those that this process may run on."""
    online = [cpu for cpu in cpus.glob("cpu[0-9]*") if _is_online(cpu)]
    return len(online) or len(os.sched_getaffinity(0))


def _is_online(cpu: Path) -> bool:
    # Without a topology it is known, but was never there.
    if not (cpu / "topology" / "core_id").exists():
        return False
    try:
        return (cpu / "online").read_text().strip() != "0"
    except FileNotFoundError:
        return True  # one that cannot be taken offline
