# SPDX-License-Identifier: Apache-2.0
"""What each ``kubeproxy-bpf sandbox`` command does and prints. Called by ``kubeproxy_bpf.tool``."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Iterator, Sequence

from kubeproxy_bpf.sandbox import cgroup
from kubeproxy_bpf.sandbox import demo as show
from kubeproxy_bpf.sandbox import journal, requirements, teardown
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.errors import NotUp
from kubeproxy_bpf.sandbox.health import healthy
from kubeproxy_bpf.sandbox.layout import Layout
from kubeproxy_bpf.sandbox.process import replace_self
from kubeproxy_bpf.sandbox.tables import name_of, service_rows, table


def up(arguments: Namespace) -> int:
    options = Options(proxy=not arguments.no_proxy, proxy_command=arguments.proxy_command)
    sandbox = Sandbox.up(arguments.name, arguments.topology, options)
    sandbox.apply(arguments.filename)
    layout = sandbox.layout
    flag = "" if layout.name == "kpb" else f" --name {layout.name}"
    print(f"Sandbox {layout.name} is up ({layout.topology}): {', '.join(layout.places)}.")
    print("Play with it:")
    hints = (
        (f"status{flag}", "what runs, and which VIPs there are"),
        (f"apply{flag} -f manifests/sandbox", "some Services of every kind"),
        (f"exec{flag} shell-1 -- curl -s http://VIP:PORT/", "ask a Service from a pod"),
        (f"exec{flag} node1 -- kubectl get services", "the API server speaks kubectl"),
        (f"scale{flag} web 1", "let the app web have one pod"),
        (f"restart{flag} node1", "end and start its proxy; or start it after kill -9"),
        (f"down{flag}", "remove everything"),
    )
    for command, meaning in hints:
        print(f"  kubeproxy-bpf sandbox {command:<48}  # {meaning}")
    print(f"Logs: {sandbox.directory}/log; pins: {sandbox.directory}/bpf")
    return 0


def down(arguments: Namespace) -> int:
    requirements.check_root()
    try:
        kept = teardown.take_down(arguments.name)
    except NotUp:
        print(f"There is no sandbox {arguments.name}; nothing to do.")
        return 0
    for sentence in kept:
        print(f"Left alone: {sentence}.")
    print(f"Sandbox {arguments.name} is down.")
    return 0


def execute(arguments: Namespace) -> int:
    requirements.check_root()
    sandbox = Sandbox.find(arguments.name)
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    environment = {"KUBECONFIG": str(sandbox.kubeconfig), "SANDBOX_PLACE": arguments.place}
    place = sandbox.place(arguments.place)
    replace_self(place, argv or [os.environ.get("SHELL", "/bin/sh")], environment)


def apply(arguments: Namespace) -> int:
    requirements.check_root()
    for manifest in Sandbox.find(arguments.name).apply(arguments.filename):
        print(f"{manifest.get('kind', 'object').lower()}/{name_of(manifest)} applied")
    return 0


def scale(arguments: Namespace) -> int:
    requirements.check_root()
    Sandbox.find(arguments.name).scale(arguments.app, arguments.replicas)
    print(f"app {arguments.app} has {arguments.replicas} pods now")
    return 0


def restart(arguments: Namespace) -> int:
    requirements.check_root()
    Sandbox.find(arguments.name).restart_proxy(arguments.node, arguments.proxy_command)
    print(f"kube-proxy on {arguments.node} runs again")
    return 0


def demo(arguments: Namespace) -> int:
    return show.run(arguments.name, arguments.topology, arguments.proxy_command)


def status(arguments: Namespace) -> int:
    requirements.check_root()
    name = arguments.name
    if name in journal.existing() and not journal.Journal(name).is_up():
        print(f"Sandbox {name} is half built: kubeproxy-bpf sandbox down --name {name}")
        return 1
    sandbox = Sandbox.find(name)
    print(f"Sandbox {name}, {sandbox.layout.topology}\n")
    for line in table(_place_rows(sandbox)):
        print(line)
    services = sandbox.api.list("Service") if sandbox.api.is_ready() else []
    print()
    for line in table(service_rows(services)):
        print(line)
    return 0


def _place_rows(sandbox: Sandbox) -> Iterator[Sequence[str]]:
    layout: Layout = sandbox.layout
    yield ("PLACE", "NAMESPACE", "IPV4", "IPV6", "PROCESSES", "KUBE-PROXY")
    for place in layout.places:
        count = str(len(cgroup.members(sandbox.place(place).cgroup)))
        health = ""
        if place in layout.node_names:
            health = "healthy" if healthy(layout.netns(place)) else "not healthy"
        yield (place, layout.netns(place), *layout.addresses(place), count, health)
