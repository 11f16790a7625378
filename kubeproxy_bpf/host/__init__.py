# SPDX-License-Identifier: Apache-2.0
"""The state of the node beside the datapath: sysctls, netfilter's entries and FORWARD, OOM score.

``app`` builds a ``state.HostState``; a cleanup takes back what is kept:
``forward.remove_forward_accept``, and the undo of ``node.reservation``.
"""
