# SPDX-License-Identifier: Apache-2.0
"""What a kube-proxy leaves on a node, in each of its modes, and how it goes without a lost packet.

``names`` says what is kube-proxy's, ``ruleset`` decides which rules go (pure), ``iptables``,
``nftables`` and ``ipvs`` look and act, ``leftovers`` puts them together, ``ports`` tells whether a
kube-proxy is alive, and ``takeover`` is the task that the app runs. ``cleanup`` uses the same.
"""
