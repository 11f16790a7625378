# SPDX-License-Identifier: Apache-2.0
"""Links, addresses and routes of a sandbox, as lines for ``ip -batch``, one list per namespace.

The text is pure: ``wiring`` says what is to be done, ``wire`` does it, one ``ip`` process per
namespace. Links are born inside their namespaces and die with them, so none of them ever appears on
the host and none needs a journal.

The wire (``net``) is a router with a bridge for the nodes and a leg for the outside client. The
shapes differ in how pods hang on their node:

routed   a veth per pod with a host route, gateway 169.254.1.1 and fe80::1, as Calico does
bridge   a bridge per node, routes between the nodes, as kubenet and flannel host-gw do
vxlan    a bridge per node, and a VXLAN device with static neighbours between them, as flannel does
"""

from __future__ import annotations

import subprocess

from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.sandbox.errors import CommandFailed
from kubeproxy_bpf.sandbox.layout import MTU, Layout, Node, Pod
from kubeproxy_bpf.sandbox.namespace import path_of

EXTERNAL_CIDRS = ("203.0.113.0/24", "2001:db8:113::/64")
"""Documentation ranges; the outside world routes them to node1, as a router of a site would."""

_ROUTED_GATEWAY = ("169.254.1.1", "fe80::1")
_VXLAN_ID = 71


def settings(place: str, layout: Layout) -> dict[str, str]:
    """Sysctls of a fresh namespace; the host's own are neither read nor written."""
    forwards = "1" if place == "net" or place in layout.node_names else "0"
    values = {
        "net/ipv4/ip_forward": forwards,
        "net/ipv6/conf/all/forwarding": forwards,
        "net/ipv6/conf/default/forwarding": forwards,
    }
    for scope in ("all", "default"):
        values[f"net/ipv4/conf/{scope}/rp_filter"] = "0"
        # No address is tentative, no route comes from an advertisement: ready at once.
        values[f"net/ipv6/conf/{scope}/accept_dad"] = "0"
        values[f"net/ipv6/conf/{scope}/accept_ra"] = "0"
        values[f"net/ipv6/conf/{scope}/disable_ipv6"] = "0"
    return values


def wiring(layout: Layout) -> dict[str, list[str]]:
    """Lines for each place, in the order in which the places must be done."""
    lines = {"net": _net(layout)}
    for node in layout.nodes:
        lines[node.name] = _node(layout, node)
    lines["client"] = _leaf(layout.client, layout.client_gateway, 1500)
    for node in layout.nodes:
        for pod in layout.pods_of(node.name):
            lines[pod.name] = _pod(layout, node, pod)
    return lines


def _veth(layout: Layout, place: str, device: str, mtu: int = 1500) -> str:
    peer = path_of(layout.netns(place))
    return f"link add name {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}"


def _up(*devices: str) -> list[str]:
    return [f"link set dev {device} up" for device in ("lo", *devices)]


def _net(layout: Layout) -> list[str]:
    ports = [f"to-{node.name}" for node in layout.nodes]
    lines = ["link add name nodes type bridge forward_delay 0"]
    for node, port in zip(layout.nodes, ports):
        lines += [_veth(layout, node.name, port), f"link set dev {port} master nodes"]
    lines.append(_veth(layout, "client", "to-client"))
    lines += _addresses("nodes", *layout.gateway) + _addresses("to-client", *layout.client_gateway)
    lines += _up("nodes", "to-client", *ports)
    for node in layout.nodes:
        for cidr, via in zip(node.pod_cidrs, node.addresses):
            lines.append(f"route add {cidr} via {via}")
    first = layout.nodes[0]
    return lines + [f"route add {x} via {via}" for x, via in zip(EXTERNAL_CIDRS, first.addresses)]


def _addresses(device: str, v4: str, v6: str, lengths: tuple[int, int] = (24, 64)) -> list[str]:
    return [
        f"addr add {v4}/{lengths[0]} dev {device}",
        f"addr add {v6}/{lengths[1]} dev {device} nodad",
    ]


def _leaf(own: tuple[str, str], gateway: tuple[str, str], mtu: int) -> list[str]:
    """A place with one device, in one subnet with its gateway."""
    lines = _addresses("eth0", *own) + [f"link set dev eth0 mtu {mtu}"] + _up("eth0")
    return lines + [f"route add default via {via}" for via in gateway]


def _node(layout: Layout, node: Node) -> list[str]:
    lines = _leaf(node.addresses, layout.gateway, 1500)
    if layout.topology == "routed":
        lines += _routed_pods(layout, node)
    else:
        lines += _bridged_pods(layout, node)
    (other,) = (each for each in layout.nodes if each != node)
    if layout.topology == "vxlan":
        return lines + _vxlan(layout, node, other)
    routes = zip(other.pod_cidrs, other.addresses)
    return lines + [f"route add {cidr} via {via}" for cidr, via in routes]


def _routed_pods(layout: Layout, node: Node) -> list[str]:
    lines = []
    for pod in layout.pods_of(node.name):
        device = f"v-{pod.name}"
        lines.append(_veth(layout, pod.name, device))
        lines += _addresses(device, *_ROUTED_GATEWAY, lengths=(32, 64))
        lines.append(f"link set dev {device} up")
        for address, source in zip(pod.addresses, node.addresses):
            lines.append(f"route add {address} dev {device} src {source}")
    return lines


def _bridged_pods(layout: Layout, node: Node) -> list[str]:
    mtu = MTU[layout.topology]
    lines = [f"link add name cni0 mtu {mtu} type bridge forward_delay 0"]
    for pod in layout.pods_of(node.name):
        device = f"v-{pod.name}"
        lines += [
            _veth(layout, pod.name, device, mtu),
            f"link set dev {device} master cni0",
            f"link set dev {device} up",
        ]
    return lines + _addresses("cni0", *node.pod_gateway) + ["link set dev cni0 up"]


def _mac(layout: Layout, node: Node) -> str:
    return f"02:6b:70:62:{layout.index:02x}:{node.number:02x}"


def _vxlan(layout: Layout, node: Node, other: Node) -> list[str]:
    """The overlay: where the other node's pods are is written down, never learnt."""
    device, mac = "vxlan0", _mac(layout, other)
    v4, v6 = other.pod_cidrs
    network = v4.partition("/")[0]
    return [
        f"link add name {device} address {_mac(layout, node)} mtu {MTU['vxlan']} type vxlan"
        f" id {_VXLAN_ID} local {node.addresses.v4} dev eth0 dstport 4789 nolearning",
        f"addr add {node.pod_cidrs.v4.partition('/')[0]}/32 dev {device}",
        f"addr add fe80::{node.number}/64 dev {device} nodad",
        f"link set dev {device} up",
        f"neigh add {network} lladdr {mac} dev {device} nud permanent",
        f"neigh add fe80::{other.number} lladdr {mac} dev {device} nud permanent",
        f"route add {v4} via {network} dev {device} onlink",
        f"route add {v6} via fe80::{other.number} dev {device} src {node.addresses.v6}",
    ]


def forwarding_entries(layout: Layout) -> dict[str, list[str]]:
    """Lines for ``bridge -batch``, which alone sets the far end of a VXLAN address."""
    if layout.topology != "vxlan":
        return {}
    first, second = layout.nodes
    return {
        node.name: [f"fdb append {_mac(layout, peer)} dev vxlan0 dst {peer.addresses.v4} self"]
        for node, peer in ((first, second), (second, first))
    }


def _pod(layout: Layout, node: Node, pod: Pod) -> list[str]:
    if layout.topology != "routed":
        return _leaf(pod.addresses, node.pod_gateway, MTU[layout.topology])
    v4, v6 = _ROUTED_GATEWAY
    return [
        *_addresses("eth0", *pod.addresses, lengths=(32, 128)),
        *_up("eth0"),
        f"route add {v4} dev eth0 scope link",
        f"route add default via {v4} dev eth0",
        f"route add default via {v6} dev eth0",
    ]


def wire(layout: Layout) -> None:
    """Make all links of a sandbox whose namespaces exist."""
    for place, lines in wiring(layout).items():
        _batch(layout, place, "ip", lines)
    for place, lines in forwarding_entries(layout).items():
        _batch(layout, place, "bridge", lines)


def _batch(layout: Layout, place: str, program: str, lines: list[str]) -> None:
    netns = path_of(layout.netns(place))
    done = subprocess.run(
        ["nsenter", f"--net={netns}", program, "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.split())
    if "Unknown device type" in said:
        raise UnsupportedKernel(f"a link type of topology {layout.topology}", said)
    raise CommandFailed(f"{program} in {place}", said)
