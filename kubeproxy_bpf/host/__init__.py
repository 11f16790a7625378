# SPDX-License-Identifier: Apache-2.0
"""The state of the node beside the datapath: sysctls, netfilter's entries and FORWARD, OOM score.

``app`` builds a ``state.HostState``; ``cli`` asks for ``init_only``; a cleanup takes back what is
kept: ``forward.remove_forward_accept``, and the undo of ``node.reservation``.
"""

from __future__ import annotations

from kubeproxy_bpf.config.schema import Config


def init_only(config: Config) -> int:
    """Do what needs a privileged process, and return the exit code."""
    from kubeproxy_bpf.host.init import initialise

    initialise(config)
    return 0
