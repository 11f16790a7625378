# SPDX-License-Identifier: Apache-2.0
"""A node between a client and its pods, with Services as rules in the shape of kube-proxy's.

Three network namespaces: what happens in the node's is seen by nobody else on the machine. Each
pod is an address that answers with what it is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import ExitStack
from functools import partial

from kubeproxy_bpf.sandbox import namespace

PORT = 5353
PODS = {4: {"a": "10.1.0.1", "b": "10.1.0.2"}, 6: {"a": "fd01::1", "b": "fd01::2"}}
NODE = {4: "192.0.2.1", 6: "fd02::1"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}


class Scene:
    """The three namespaces; leaving the stack takes them away."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._prefix = f"kpbt-h{os.getpid()}"
        namespace.prepare()
        for place in ("client", "node", "pods"):
            name = self.name(place)
            namespace.create(name, lambda inode: None, {})
            stack.callback(namespace.remove, name)
        self._wire("client", NODE[4], "192.0.2.2/24", NODE[6], "fd02::2/64")
        self._wire("pods", "10.1.0.254", "10.1.0.253/24", "fd01::fe", "fd01::fd/64")
        for family in ("ipv4", "ipv6"):
            forwarding = "all/forwarding"
            self.run("node", "sh", "-c", f"echo 1 >/proc/sys/net/{family}/conf/{forwarding}")
        for version, pods in PODS.items():
            for address in pods.values():
                self.run("pods", "ip", "addr", "add", address, "dev", "eth0", *_NODAD[version])
                for protocol in _PROTOCOLS:
                    self._answer(version, protocol, address)

    def name(self, place: str) -> str:
        return f"{self._prefix}-{place}"

    def run(self, place: str, *argv: str, text: str = "") -> str:
        """Run a program in a place; it must not fail."""
        command = ["nsenter", f"--net={namespace.path_of(self.name(place))}", *argv]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, (place, argv, done.stderr)
        return done.stdout

    def on_node(self, function):
        """Call a function in the node's namespace."""
        return namespace.call(self.name("node"), function)

    def serve(self, services: dict[tuple[str, str, int], str]) -> None:
        """Replace the rules: VIP or "node", protocol and port lead to a pod, or nowhere."""
        self.run("node", "nft", "-f", "-", text=_rules(services))

    def client(self, version: int, protocol: str = "udp") -> socket.socket:
        """A socket of the client."""
        made = namespace.call(
            self.name("client"),
            partial(socket.socket, FAMILIES[version], _PROTOCOLS[protocol]),
        )
        self._stack.callback(made.close)
        made.settimeout(5)
        return made

    def count(self) -> int:
        path = "/proc/sys/net/netfilter/nf_conntrack_count"
        return int(self.run("node", "cat", path))

    def _wire(self, place: str, near4: str, far4: str, near6: str, far6: str) -> None:
        device = f"to-{place}"
        peer = str(namespace.path_of(self.name(place)))
        self.run("node", "ip", "link", "add", device, "type", "veth", "peer", "eth0")
        # Under a path: a name would be looked for under /run/netns of another mount namespace.
        self.run("node", "ip", "link", "set", "eth0", "netns", peer)
        for name, here, a4, a6 in (("node", device, near4, near6), (place, "eth0", far4, far6)):
            for address in (a4, a6):
                bits = "" if "/" in address else "/64" if ":" in address else "/24"
                flags = _NODAD[6] if ":" in address else []
                self.run(name, "ip", "addr", "add", address + bits, "dev", here, *flags)
            self.run(name, "ip", "link", "set", here, "up")
            self.run(name, "ip", "link", "set", "lo", "up")
        self.run(place, "ip", "route", "add", "default", "via", near4)
        self.run(place, "ip", "route", "add", "default", "via", near6)

    def _answer(self, version: int, protocol: str, address: str) -> None:
        listening = namespace.call(
            self.name("pods"),
            partial(socket.socket, FAMILIES[version], _PROTOCOLS[protocol]),
        )
        listening.bind((address, PORT))
        run = _datagrams if protocol == "udp" else _connections
        if protocol == "tcp":
            listening.listen()
        thread = threading.Thread(target=run, args=(listening, address.encode()), daemon=True)
        thread.start()

        def end():
            # Closing alone does not wake who waits.
            try:
                listening.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # a datagram socket is woken, and says that it is not connected
            thread.join()
            listening.close()

        self._stack.callback(end)


def ask(sock: socket.socket, address: str, port: int) -> str:
    """One datagram, and who answers it."""
    sock.sendto(b"?", (address, port))
    return sock.recv(64).decode()


_NODAD = {4: [], 6: ["nodad"]}


def _datagrams(sock, answer):
    while True:
        asked, peer = sock.recvfrom(64)
        if not asked:
            return
        sock.sendto(answer, peer)


def _connections(sock, answer):
    held = []
    try:
        while True:
            held.append(sock.accept()[0])
            held[-1].sendall(answer)
    except OSError:
        for each in held:
            each.close()


def _rules(services):
    chains, jumps = [], []
    for (vip, protocol, port), pod in services.items():
        if not pod:
            continue
        six = ":" in pod
        target = f"ip6 to [{pod}]:{PORT}" if six else f"ip to {pod}:{PORT}"
        name = f"endpoint-{vip}-{protocol}-{port}-{pod}".replace(":", "_").replace(".", "_")
        chains.append(f"chain {name} {{ meta l4proto {protocol} dnat {target}; }}")
        to = "fib daddr type local" if vip == "node" else f"{'ip6' if six else 'ip'} daddr {vip}"
        family = "ipv6" if six else "ipv4"
        jumps.append(f"meta nfproto {family} {to} {protocol} dport {port} jump {name}")
    hooks = [
        f"chain nat-{hook} {{ type nat hook {hook} priority -100; jump services; }}"
        for hook in ("prerouting", "output")
    ]
    head = ["table inet kube-proxy", "delete table inet kube-proxy", "table inet kube-proxy {"]
    return "\n".join([*head, *chains, "chain services {", *jumps, "}", *hooks, "}"])
