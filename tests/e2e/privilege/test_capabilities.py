# SPDX-License-Identifier: Apache-2.0
"""The proxy has exactly what the manifest gives, and says what each missing capability costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_bpf.dataplane.privileges import Capability
from tests.e2e.packaging.pods import connected_udp
from tests.e2e.privilege.lesser import LesserNode, process_status, without

pytestmark = pytest.mark.root


class Loss(NamedTuple):
    """A capability that is not given, and what the user sees."""

    missing: str
    told: tuple[str, ...]
    restricted: bool = False
    """From manifests/restricted: CAP_SYS_ADMIN would stand in for it."""


ENDS = (
    Loss("bpf", ("CAP_BPF is not available", "kind=UnsupportedKernel"), restricted=True),
    Loss("perfmon", ("CAP_PERFMON is not available", "compute with pointers"), restricted=True),
    Loss("net_admin", ("CAP_NET_ADMIN is not available", "attaches programs"), restricted=True),
)
GOES_ON = (
    Loss("net_admin", ("feature=CAP_NET_ADMIN", "conntrack_not_cleaned")),
    Loss("net_raw", ("feature=CAP_NET_RAW", "iptables of the legacy kind")),
)
SYS_ADMIN = Loss("sys_admin", ("feature=CAP_SYS_ADMIN", "running_programs_unknown"))


def test_the_process_has_what_the_manifest_gives_and_no_more(node: LesserNode) -> None:
    """Capabilities of the manifest, no new privileges, the runtime's seccomp profile and a
    read-only root are those of the process that serves; and each capability has its row here."""
    container = node.container()
    proxy = node.serving(container)

    status = process_status(proxy)
    held = sum(1 << Capability[name.upper()] for name in container.capabilities)
    for field in ("CapPrm", "CapEff", "CapBnd"):
        assert held == int(status[field], 16), field
    assert ("1", "2") == (status["NoNewPrivs"], status["Seccomp"].strip())
    assert "ro" in _root_mount(proxy.pid)[5].split(",")
    assert set(container.capabilities) == {loss.missing for loss in (*ENDS, *GOES_ON, SYS_ADMIN)}


@pytest.mark.parametrize("loss", ENDS, ids=lambda loss: loss.missing)
def test_what_loading_takes_is_asked_for_by_name(node: LesserNode, loss: Loss) -> None:
    """Without one of the three the proxy ends at once, with a line that names it."""
    line = node.refused(without(node.container("restricted"), loss.missing))
    assert [told for told in loss.told if told not in line] == []


@pytest.mark.parametrize("loss", GOES_ON, ids=lambda loss: loss.missing)
def test_what_is_lost_is_told_and_services_are_served(node: LesserNode, loss: Loss) -> None:
    """Without one of the others ClusterIP and node port work, and the log says what does not."""
    proxy = node.serving(without(node.container(), loss.missing))
    log = proxy.log.read_text()
    assert [told for told in loss.told if told not in log] == []
    assert "[error" not in log


def test_without_sys_admin_a_successor_takes_over_the_pins(node: LesserNode) -> None:
    """The variant without CAP_SYS_ADMIN is restarted on its pins: what is attached stays attached,
    and serves in between. Without pins there would be nothing to find it by, which is an error."""
    container = node.container("restricted")
    first = node.serving(container)
    assert 0 == first.stop()
    assert {"vip": "web", "node port": "web"} == node.answers()

    second = node.serving(container)
    log = second.log.read_text()
    assert [told for told in SYS_ADMIN.told if told not in log] == []
    assert "old_program" not in log and "writes=0" in log
    assert 0 == second.stop()

    hidden = [mount for mount in container.mounts if mount.target != "/sys/fs/bpf"]
    line = node.refused(replace(container, mounts=hidden))
    assert "without pins the process needs CAP_SYS_ADMIN" in line


def test_without_sys_admin_the_sockets_of_the_node_itself_are_aborted(node: LesserNode) -> None:
    """A thread need not enter the network namespace that it is in; that those of pods are out of
    reach is told once, with what it takes."""
    proxy = node.serving(node.container("restricted"))
    with connected_udp(node.kube, "node1") as (backend, end):
        node.kube.delete_pod(backend)
        assert "ECONNABORTED" == end()
    proxy.until("told", lambda: "udp_sockets_out_of_reach" in proxy.log.read_text())
    assert 1 == proxy.log.read_text().count("udp_sockets_out_of_reach")


def _root_mount(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    (root,) = (line.split() for line in lines if line.split()[4] == "/")
    return root
