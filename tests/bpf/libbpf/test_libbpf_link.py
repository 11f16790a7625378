# SPDX-License-Identifier: Apache-2.0
"""Links on cgroups and devices, and iterators."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable

import pytest

from kubeproxy_bpf.libbpf import (
    AttachFlag,
    AttachType,
    BpfObject,
    LibbpfError,
    Link,
    LinkType,
    prog_query,
)

pytestmark = pytest.mark.root

CONNECT4 = AttachType.CGROUP_INET4_CONNECT
CLONE_NEWNET = 0x40000000
PROBE = """
import socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(sock.connect_ex(("127.0.0.1", 9)))
"""


def connect_errno(cgroup: Path) -> int:
    """Connect a UDP socket from inside a cgroup."""
    command = [sys.executable, "-S", "-c", PROBE, str(cgroup)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def in_new_netns(action: Callable[[], None]) -> None:
    """Run something in a thread that has a network namespace of its own."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_a_cgroup_link_attaches_until_it_is_closed(
    loaded: BpfObject, cgroup: Path, cgroup_fd: int
) -> None:
    """The program decides over connect() while the link lives, and no longer."""
    program = loaded.programs["t_deny"]
    with program.attach_cgroup(cgroup_fd) as link:
        info = link.info()
        attached = prog_query(cgroup_fd, CONNECT4)
        during = connect_errno(cgroup)

    assert (LinkType.CGROUP, CONNECT4) == (info.type, info.attach_type)
    assert os.stat(cgroup).st_ino == info.cgroup_id
    assert [program.info().id] == [info.prog_id] == attached
    assert errno.EPERM == during
    assert 0 == connect_errno(cgroup)
    assert [] == prog_query(cgroup_fd, CONNECT4)


def test_a_program_is_swapped_in_one_step(loaded: BpfObject, cgroup: Path, cgroup_fd: int) -> None:
    """update() replaces the program, and only the expected one if told so."""
    allow, deny = loaded.programs["t_allow"], loaded.programs["t_deny"]
    with deny.attach_cgroup(cgroup_fd) as link:
        link.update(allow, old=deny)
        swapped = connect_errno(cgroup)
        with pytest.raises(LibbpfError) as caught:
            link.update(deny, old=deny)

        assert 0 == swapped
        assert errno.EPERM == caught.value.errno
        assert allow.info().id == link.info().prog_id


def test_a_pinned_link_outlives_its_descriptor(
    loaded: BpfObject, cgroup: Path, cgroup_fd: int, bpffs: Path
) -> None:
    """A pin keeps the attachment; detach() ends it although the pin stays."""
    with loaded.programs["t_deny"].attach_cgroup(cgroup_fd) as link:
        link.pin(bpffs / "link")
        link_id = link.info().id

    assert errno.EPERM == connect_errno(cgroup)
    with Link.open_pinned(bpffs / "link") as again, Link.from_id(link_id) as by_id:
        again.detach()
        assert 0 == by_id.info().cgroup_id
    assert 0 == connect_errno(cgroup)


def test_an_effective_query_includes_ancestors(
    loaded: BpfObject, cgroup: Path, cgroup_fd: int
) -> None:
    """An effective query of a child sees what the parent has."""
    child = cgroup / "child"
    child.mkdir()
    child_fd = os.open(child, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with loaded.programs["t_allow"].attach_cgroup(cgroup_fd) as link:
            assert [] == prog_query(child_fd, CONNECT4)
            assert link.info().prog_id in prog_query(child_fd, CONNECT4, effective=True)
    finally:
        os.close(child_fd)
        child.rmdir()


def test_attaching_to_nothing_names_the_hook(loaded: BpfObject) -> None:
    """A wrong target raises with call and attach type."""
    with open(os.devnull) as file, pytest.raises(LibbpfError) as caught:
        loaded.programs["t_allow"].attach_cgroup(file.fileno())

    assert ("bpf_link_create", "cgroup_inet4_connect") == (caught.value.call, caught.value.object)


def test_tcx_links_stand_where_they_are_told(loaded: BpfObject, image: Path) -> None:
    """A tcx link is created, found, and put before another one."""
    kind = AttachType.TCX_INGRESS

    def body() -> None:
        device = socket.if_nametoindex("lo")
        with BpfObject.open(image) as other:
            other.load()
            fds = loaded.programs["t_pass"].fd, other.programs["t_pass"].fd
            with Link.create(fds[0], device, kind) as old:
                with Link.create(fds[1], device, kind, AttachFlag.BEFORE) as new:
                    assert [new.info().prog_id, old.info().prog_id] == prog_query(device, kind)
                    assert (LinkType.TCX, device, kind) == (
                        old.info().type,
                        old.info().ifindex,
                        old.info().attach_type,
                    )

    in_new_netns(body)


def test_an_iterator_sees_the_namespace_of_its_reader(loaded: BpfObject) -> None:
    """The same link lists the sockets of whichever namespace reads it."""
    program = loaded.programs["t_sockets"]

    def body() -> None:
        assert b"" == link.read()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", 0))
            assert b"u" == link.read() == program.run_iter()

    with program.attach_iter() as link:
        assert (LinkType.ITER, AttachType.TRACE_ITER) == (link.info().type, link.info().attach_type)
        in_new_netns(body)
