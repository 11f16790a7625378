# SPDX-License-Identifier: Apache-2.0
"""Which sysctls of connection tracking are set, to what, in which order, and what ends it [J8-J10].

Against files in a directory; tests/bpf/host does it to the sysctls of a network namespace.
"""

import errno
import os

import pytest

from kubeproxy_bpf.config.schema import ConntrackSysctls
from kubeproxy_bpf.errors import SysctlRefused
from kubeproxy_bpf.host import sysctls as module
from kubeproxy_bpf.host.sysctls import apply_conntrack, conntrack_max, time_outs

NOTHING = ConntrackSysctls(0, 0, 0.0, 0.0)


class Files:
    """The sysctls as files, and what was written, in order."""

    def __init__(self, directory):
        self.directory = directory / "netfilter"
        self.directory.mkdir()
        self.hash_size = directory / "hashsize"
        self.written = []

    def hold(self, **values):
        for name, value in values.items():
            path = self.hash_size if name == "hashsize" else self.directory / f"nf_conntrack_{name}"
            path.write_text(f"{value}\n")

    def apply(self, wanted, cpus=2, **options):
        places = {"sysctls": self.directory, "hash_size": self.hash_size}
        return apply_conntrack(wanted, cpus=cpus, **places, **options)


@pytest.fixture
def files(tmp_path, monkeypatch):
    files = Files(tmp_path)
    files.hold(
        max=262144,
        hashsize=65536,
        tcp_timeout_established=432000,
        tcp_timeout_close_wait=60,
        tcp_be_liberal=0,
        udp_timeout=30,
        udp_timeout_stream=120,
    )
    write = module._write

    def note(path, value):
        files.written.append((path.name.removeprefix("nf_conntrack_"), value))
        write(path, value)

    monkeypatch.setattr(module, "_write", note)
    return files


@pytest.mark.parametrize(
    "per_core, minimum, cpus, expected",
    [
        (32768, 131072, 2, 131072),
        (32768, 131072, 8, 262144),
        (32768, 131072, 32, 1048576),
        (32768, 131072, 33, 1048576),
        (32768, 2000000, 64, 1048576),
        (32768, 2000000, 2, 2000000),
        (0, 131072, 8, 0),
        (1, 0, 1, 1),
    ],
)
def test_limit_grows_with_the_processors(per_core, minimum, cpus, expected):
    """max(min, per core * cores), capped; beyond the cap the minimum does not count [J8]."""
    assert expected == conntrack_max(ConntrackSysctls(per_core, minimum), cpus)


def test_time_outs_stand_in_the_order_of_writing():
    """All that is positive, in whole seconds; and liberal is never written as 0."""
    wanted = ConntrackSysctls(0, 0, 86400.9, 3600.0, True, 60.0, 180.0)

    assert [
        ("nf_conntrack_tcp_timeout_established", 86400),
        ("nf_conntrack_tcp_timeout_close_wait", 3600),
        ("nf_conntrack_tcp_be_liberal", 1),
        ("nf_conntrack_udp_timeout", 60),
        ("nf_conntrack_udp_timeout_stream", 180),
    ] == list(time_outs(wanted).items())
    assert {} == time_outs(NOTHING)


def test_defaults_are_written_in_order(files):
    """The limit, then the time-outs; the hash table is large enough and stays."""
    assert [] == files.apply(ConntrackSysctls())

    assert [
        ("max", 131072),
        ("tcp_timeout_established", 86400),
        ("tcp_timeout_close_wait", 3600),
    ] == files.written


def test_second_time_nothing_is_written(files):
    """What is as wanted is left alone."""
    wanted = ConntrackSysctls(tcp_be_liberal=True, udp_s=60.0, udp_stream_s=180.0)
    files.apply(wanted)
    files.written.clear()

    files.apply(wanted)

    assert [] == files.written


def test_hash_table_grows_to_a_quarter(files):
    """Right after the limit, and only if it is smaller."""
    files.apply(ConntrackSysctls(tcp_established_s=0.0, tcp_close_wait_s=0.0), cpus=16)

    assert [("max", 524288), ("hashsize", 131072)] == files.written


def test_zeros_touch_nothing(tmp_path):
    """Who has no connection tracking says so by zeros, and starts [J10]."""
    assert [] == apply_conntrack(
        NOTHING, sysctls=tmp_path / "absent", hash_size=tmp_path / "absent"
    )


def test_missing_connection_tracking_is_the_end(tmp_path, monkeypatch):
    """The kernel was asked for its module, and there still is none [J10]."""
    asked = []
    monkeypatch.setattr(module, "ask_for_module", lambda: asked.append(True))

    with pytest.raises(SysctlRefused, match="nf_conntrack_max cannot be set to 131072"):
        apply_conntrack(
            ConntrackSysctls(), sysctls=tmp_path / "absent", hash_size=tmp_path / "absent", cpus=1
        )

    assert [True] == asked


def test_missing_hash_size_is_the_end(files):
    """As with kube-proxy: without it the limit cannot be judged."""
    files.hash_size.unlink()

    with pytest.raises(SysctlRefused, match="hashsize"):
        files.apply(ConntrackSysctls())


def refuse(monkeypatch, name, code):
    write = module._write

    def refusing(path, value):
        if path.name.endswith(name):
            raise OSError(code, os.strerror(code))
        write(path, value)

    monkeypatch.setattr(module, "_write", refusing)


@pytest.mark.parametrize("name", ["max", "tcp_timeout_close_wait"])
def test_read_only_sysctls_are_the_end(files, monkeypatch, name):
    """/proc/sys/net is read-only in the container: an error that names the path [J10]."""
    refuse(monkeypatch, name, errno.EROFS)

    with pytest.raises(SysctlRefused, match=f"{name} cannot .* Read-only file system"):
        files.apply(ConntrackSysctls())


def test_a_proxy_serves_with_sysctls_that_it_may_not_write(files, monkeypatch):
    """What --init-only set was changed since: told, and all else is set."""
    refuse(monkeypatch, "tcp_timeout_close_wait", errno.EROFS)

    (kept,) = files.apply(ConntrackSysctls(), serve_anyway=True)

    assert "/proc/sys is read-only" == kept.reason
    assert ("tcp_timeout_established", 86400) in files.written


@pytest.mark.parametrize(
    "code, reason",
    [(errno.EROFS, "read-only"), (errno.EOPNOTSUPP, "initial network namespace")],
)
def test_hash_size_that_cannot_be_written_stays(files, monkeypatch, code, reason):
    """A read-only /sys, or another namespace: reported, and all else is set."""
    refuse(monkeypatch, "hashsize", code)

    (kept,) = files.apply(ConntrackSysctls(), cpus=16)

    assert (files.hash_size, 131072) == kept[:2]
    assert reason in kept.reason
    assert ("tcp_timeout_close_wait", 3600) in files.written


def test_hash_size_refused_for_another_reason_is_the_end(files, monkeypatch):
    """Whatever else is wrong is told."""
    refuse(monkeypatch, "hashsize", errno.ENOMEM)

    with pytest.raises(SysctlRefused, match="hashsize"):
        files.apply(ConntrackSysctls(), cpus=16)


def test_limit_that_nobody_may_write_stays(files):
    """In other network namespaces the limit is shown without any right to write it."""
    limit = files.directory / "nf_conntrack_max"
    limit.chmod(0o444)

    (kept,) = files.apply(ConntrackSysctls())

    assert (limit, 131072) == kept[:2]
    assert [name for name, _ in files.written] == [
        "tcp_timeout_established",
        "tcp_timeout_close_wait",
    ]


def test_limit_that_nobody_may_write_but_fits_is_no_news(files):
    """What is as wanted is not reported."""
    (files.directory / "nf_conntrack_max").chmod(0o444)

    assert [] == files.apply(ConntrackSysctls(), cpus=8)
