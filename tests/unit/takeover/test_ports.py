# SPDX-License-Identifier: Apache-2.0
"""Who listens where a kube-proxy does."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.takeover.ports import DEFAULT_PORTS, held_by_others, ports_of

_LISTEN = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0), family=int(sys.argv[2]))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_ports_of_the_configuration_and_of_a_kube_proxy_without_any():
    """An empty address is a server that is off; port 0 is no port."""
    config = Config(
        hostname="n", healthz_bind_address="[::]:1234", metrics_bind_address="127.0.0.1:0"
    )
    assert ports_of(config) == DEFAULT_PORTS | {1234}
    assert ports_of(Config(hostname="n", healthz_bind_address="")) == DEFAULT_PORTS


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_only_listeners_of_others_count(address):
    """Our own do not, nor do sockets that only use the number."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as own:
        mine = own.getsockname()[1]
        argv = [sys.executable, "-I", "-S", "-c", _LISTEN, address, str(int(family))]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdin is not None
            theirs = int(process.stdout.readline())
            with socket.create_connection((address, theirs)) as client:
                used = client.getsockname()[1]
                assert held_by_others({mine, theirs, used}) == [theirs]
            process.stdin.close()
    assert held_by_others({mine, theirs}) == []
