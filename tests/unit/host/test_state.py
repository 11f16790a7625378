# SPDX-License-Identifier: Apache-2.0
"""What the host's part does before anything is programmed, and in which order [K7]."""

import pytest

from kubeproxy_bpf.config.schema import Config, ConntrackSysctls
from kubeproxy_bpf.errors import SysctlRefused
from kubeproxy_bpf.host import state as module
from kubeproxy_bpf.host.state import HostState
from kubeproxy_bpf.meters import ConntrackMeters


@pytest.fixture
def done(monkeypatch):
    """What was done, in order, in place of doing it."""
    done = []

    def apply(wanted, *, serve_anyway):
        done.append(("sysctls", wanted.udp_s))
        return []

    monkeypatch.setattr(module, "apply_conntrack", apply)
    monkeypatch.setattr(module, "set_oom_score", lambda score: done.append(("oom", score)))

    class Forward:
        def __init__(self, mode, mark, look_s):
            self.given = mode, mark, look_s

        def start(self):
            done.append(("forward", *self.given))
            return self.given[1]

    monkeypatch.setattr(module, "ForwardAccept", Forward)
    return done


def state(**fields):
    return HostState(Config(hostname="n", **fields), ConntrackMeters())


async def test_sysctls_come_first_then_the_score_then_forward(done):
    """The mark for the programs is that of the masquerade bit."""
    made = state(
        conntrack_sysctls=ConntrackSysctls(udp_s=7.0), masquerade_bit=20, sync_period_s=9.0
    )
    assert 0 == made.forward_mark

    await made.prepare()

    assert [("sysctls", 7.0), ("oom", -999), ("forward", "auto", 1 << 20, 9.0)] == done
    assert 1 << 20 == made.forward_mark


async def test_sysctl_that_cannot_be_set_ends_it(done, monkeypatch):
    """Nothing else is touched then [J10]."""

    def refuse(wanted, *, serve_anyway):
        raise SysctlRefused("/proc/sys/x", 1, "Read-only file system")

    monkeypatch.setattr(module, "apply_conntrack", refuse)

    with pytest.raises(SysctlRefused):
        await state().prepare()

    assert [] == done
