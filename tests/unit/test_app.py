# SPDX-License-Identifier: Apache-2.0
"""What of the configuration decides about Services."""

import pytest

from kubeproxy_bpf.app import model_config
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.model.facts import KUBELET_PORTS
from kubeproxy_bpf.model.types import Family


def decided(*flags):
    return model_config(load(["--hostname-override=n1", *flags]), (Family.IPV4,))


def test_our_own_listeners_are_protected():
    """Beside the kubelet's ports, those of the health and metrics servers, wherever they are."""
    ports = decided("--healthz-bind-address=0.0.0.0:1234", "--metrics-bind-address=[::1]:4321")
    assert KUBELET_PORTS | {(1234, 6), (4321, 6)} == ports.protected_ports
    assert {(10256, 6), (10249, 6)} <= decided().protected_ports


@pytest.mark.parametrize(
    "flags, consistent",
    [
        ((), False),
        (("--bpf-algorithm=maglev",), True),
        (("--bpf-forwarding=dsr",), True),
        (("--bpf-forwarding=hybrid",), True),
    ],
)
def test_the_choice_of_backends_follows_the_flags(flags, consistent):
    """With DSR the backend's node has to find the same backend by itself."""
    assert decided(*flags).consistent_default is consistent
