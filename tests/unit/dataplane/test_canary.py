# SPDX-License-Identifier: Apache-2.0
"""What an answer of the canary proves."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane import canary
from kubeproxy_bpf.dataplane.canary import CANARY_IPV4, HooksDead
from kubeproxy_bpf.errors import UnsupportedKernel

HERE = Path("/cgroup")


@pytest.mark.parametrize(
    "answer",
    [
        ["10.0.0.1", CANARY_IPV4],
        [str(errno.ENETUNREACH)],
        [str(errno.ECONNREFUSED)],
    ],
    ids=str,
)
def test_what_was_not_translated_is_a_proof(answer: list[str]) -> None:
    """The address is nobody's: routes lead there or not."""
    with pytest.raises(HooksDead, match="do not run for its sockets"):
        canary._judge(HERE, CANARY_IPV4, "127.0.0.1", answer)


@pytest.mark.parametrize(
    "number",
    [errno.EPERM, errno.EACCES, errno.EAGAIN, errno.EMFILE, errno.ENOMEM, errno.ENOBUFS],
    ids=errno.errorcode.__getitem__,
)
def test_a_connect_that_fails_for_another_reason_proves_nothing(number: int) -> None:
    """Policies of others, no free port, no descriptors, no memory: hooks may be well."""
    with pytest.raises(UnsupportedKernel, match="cannot connect") as caught:
        canary._judge(HERE, CANARY_IPV4, "127.0.0.1", [str(number)])
    assert not isinstance(caught.value, HooksDead)


def test_a_translated_connect_proves_the_hooks() -> None:
    """From loopback, and to what was dialled."""
    canary._judge(HERE, CANARY_IPV4, "127.0.0.1", ["127.0.0.1", CANARY_IPV4])
