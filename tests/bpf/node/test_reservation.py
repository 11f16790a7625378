# SPDX-License-Identifier: Apache-2.0
"""Ports of masqueraded flows are reserved in a network namespace of the test's own."""

import ctypes
import os
import socket
import threading
from pathlib import Path

import pytest

from kubeproxy_bpf.node import reservation as module
from kubeproxy_bpf.node.reservation import PortReservation, format_ports, parse_ports

pytestmark = pytest.mark.root
CLONE_NEWNET = 0x40000000
IPV4 = Path("/proc/sys/net/ipv4")


def in_new_namespace(function):
    """Run a function in a thread that has unshared its network namespace."""
    outcome = []

    def body():
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]


def set_range(text):
    (IPV4 / "ip_local_port_range").write_text(text)


def reserve_by_others(text):
    (IPV4 / "ip_local_reserved_ports").write_text(f"{text}\n")


def reserved():
    return (IPV4 / "ip_local_reserved_ports").read_text().strip()


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "instance" / "reserved-ports.json"


def test_ports_that_sockets_never_get_need_no_reservation(journal):
    """With the kernel's own range nothing is changed and nothing noted."""

    def scenario():
        set_range("32768 60999")
        found = PortReservation(journal).reserve(10000, 29999)
        assert not found.wanted and not found.added
        assert "" == reserved()

    in_new_namespace(scenario)
    assert not journal.exists()


def test_the_overlap_is_reserved_beside_what_others_reserved(journal):
    """Others keep theirs, also within our range, and after the undo exactly theirs remain."""

    def scenario():
        set_range("20000 40000")
        reserve_by_others("25000,50000-50010")
        found = PortReservation(journal).reserve(10000, 29999)
        assert 10000 == len(found.wanted)
        assert "20000-24999,25001-29999" == format_ports(found.added)
        assert "20000-29999,50000-50010" == reserved()

        assert found.added == PortReservation(journal).undo()
        assert "25000,50000-50010" == reserved()

    in_new_namespace(scenario)
    assert not journal.exists()


def test_a_socket_gets_none_of_the_reserved_ports(journal):
    """What the reservation is for: the kernel chooses among the rest."""

    def scenario():
        set_range("20000 20003")
        PortReservation(journal).reserve(20000, 20002)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("0.0.0.0", 0))
            assert 20003 == own.getsockname()[1]
        PortReservation(journal).undo()

    in_new_namespace(scenario)


def test_a_restart_finds_its_own_reservation(journal):
    """The journal tells ours from those of others; a change of the range gives back the rest."""

    def scenario():
        set_range("20000 40000")
        PortReservation(journal).reserve(20000, 20009)
        noted = journal.read_text()
        PortReservation(journal).reserve(20000, 20009)
        assert noted == journal.read_text()
        reserve_by_others("20000-20009,30000")

        found = PortReservation(journal).reserve(20005, 20019)
        assert "20005-20019" == format_ports(found.added)
        assert "20005-20019,30000" == reserved()

        PortReservation(journal).reserve(1000, 1999)
        assert "30000" == reserved()

    in_new_namespace(scenario)
    assert not journal.exists()


def test_what_a_crash_left_is_undone(journal):
    """The journal is written first: whatever the sysctl then says, nothing of ours remains."""

    def scenario():
        set_range("20000 40000")
        reserve_by_others("21000")
        ours = PortReservation(journal)
        ours._write(parse_ports("20000-20009"))
        assert not ours.undo()
        assert "21000" == reserved()

        ours._write(parse_ports("20000-20009"))
        reserve_by_others("20000-20004,21000")
        assert "20000-20004" == format_ports(ours.undo())
        assert "21000" == reserved()

    in_new_namespace(scenario)


def test_what_is_added_is_noted_before_it_is_done(journal, monkeypatch):
    """A process that ends in between leaves a journal that names too much, never too little."""
    noted = []

    def set_reserved(ports):
        noted.append(journal.read_text())

    monkeypatch.setattr(module, "_set_reserved", set_reserved)

    def scenario():
        set_range("20000 40000")
        PortReservation(journal).reserve(20000, 20009)

    in_new_namespace(scenario)
    assert 1 == len(noted) and "20000-20009" in noted[0]


def test_a_journal_of_another_namespace_is_void(journal):
    """The sysctl belongs to the namespace: what was noted of another one is nobody's here."""

    def elsewhere():
        set_range("20000 40000")
        PortReservation(journal).reserve(20000, 20009)

    def scenario():
        set_range("20000 40000")
        reserve_by_others("20000-20009")
        assert not PortReservation(journal).undo()
        assert "20000-20009" == reserved()

    in_new_namespace(elsewhere)
    in_new_namespace(scenario)


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"place": 1}', '{"added": "x-"}'])
def test_a_broken_journal_takes_nothing_from_others(journal, text):
    """Ports stay reserved rather than that somebody else loses theirs."""
    journal.parent.mkdir()
    journal.write_text(text)

    def scenario():
        reserve_by_others("20000-20009")
        assert not PortReservation(journal).undo()
        assert "20000-20009" == reserved()

    in_new_namespace(scenario)


@pytest.mark.parametrize("text", ["", "1", "1-3", "1,3,5-65535", "80,8080-8090,9000"])
def test_ports_are_written_as_the_kernel_does(text):
    """Reading and writing the notation are inverse."""
    assert text == format_ports(parse_ports(text))
