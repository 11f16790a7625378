# SPDX-License-Identifier: Apache-2.0
"""What a node brings along that a proxy has to live with: sysctls, a firewall, a CNI's masquerade.

The rules are those of flannel (forwarding by pod network, four rules of masquerading), on top of a
FORWARD policy of DROP and a rule that drops what conntrack calls invalid.
"""

from __future__ import annotations

import subprocess

from kubeproxy_bpf.sandbox.layout import Layout, Node
from kubeproxy_bpf.sandbox.namespace import path_of

_SYSCTLS = {"rp_filter": "1", "accept_local": "0", "accept_redirects": "0", "send_redirects": "0"}


def make_strict(layout: Layout, node: Node) -> None:
    """Set the sysctls of a node, on each device, and load the rules of both families."""
    settings = " ".join(
        f"for f in /proc/sys/net/ipv4/conf/*/{name}; do echo {value} >$f; done;"
        for name, value in _SYSCTLS.items()
    )
    inside(layout, node.name, ["sh", "-ec", settings])
    for family, restore in enumerate(("iptables-restore", "ip6tables-restore")):
        inside(layout, node.name, [restore], rules(layout, node, family))


def rules(layout: Layout, node: Node, family: int) -> str:
    """Rules of one family, as ``iptables-restore`` reads them."""
    pods, own = layout.pod_network[family], node.pod_cidrs[family]
    multicast = ("224.0.0.0/4", "ff00::/8")[family]
    return "\n".join(
        (
            "*filter",
            ":FORWARD DROP",
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            f"-A FORWARD -s {pods} -j ACCEPT",
            f"-A FORWARD -d {pods} -j ACCEPT",
            "COMMIT",
            "*nat",
            ":POSTROUTING ACCEPT",
            f"-A POSTROUTING -s {pods} -d {pods} -j RETURN",
            f"-A POSTROUTING -s {pods} ! -d {multicast} -j MASQUERADE --random-fully",
            f"-A POSTROUTING ! -s {pods} -d {own} -j RETURN",
            f"-A POSTROUTING ! -s {pods} -d {pods} -j MASQUERADE --random-fully",
            "COMMIT",
            "",
        )
    )


def inside(layout: Layout, place: str, argv: list[str], text: str = "") -> str:
    """Run a program in the network namespace of a place; it must not fail."""
    netns = path_of(layout.netns(place))
    command = ["nsenter", f"--net={netns}", *argv]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, (place, argv, done.stderr)
    return done.stdout
