# SPDX-License-Identifier: Apache-2.0
"""The packet object beside that of the sockets: shared maps, own pins, what a kernel refuses."""

import platform
import subprocess
from pathlib import Path

import pytest
import structlog

import kubeproxy_bpf
from kubeproxy_bpf import instance as instance_module
from kubeproxy_bpf.config.load import load as load_config
from kubeproxy_bpf.dataplane.loader import load_bare_ip, load_copy, load_datapath, load_packets
from kubeproxy_bpf.dataplane.settings import Settings
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.instance import Instance

pytestmark = pytest.mark.root

OBJECTS = Path(kubeproxy_bpf.__file__).parent / "obj"
BPF = Path(__file__).parents[3] / "bpf"
SETTINGS = Settings(host_netns=1, instance=1, flags=0)
SIZES = {"kpb_slots": 1024, "kpb_backends": 1024}
ALL = {"kpb_tc_ingress", "kpb_tc_ingress_l3", "kpb_xdp", "kpb_xdp_linear"}


@pytest.fixture
def sockets():
    with load_datapath(OBJECTS / "kube_proxy.bpf.o", None, SIZES, SETTINGS) as datapath:
        yield datapath


@pytest.fixture
def refusing(tmp_path):
    """Compiles the object of which a kernel refuses some programs."""

    def compiled(*refused):
        target = tmp_path / "packets.bpf.o"
        system = ["-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"]
        options = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-std=gnu11", "-Wall", "-Werror"]
        options += [f"-I{BPF / 'include'}", *system, *(f"-DREFUSE_{name}" for name in refused)]
        source = Path(__file__).with_name("refused.bpf.c")
        subprocess.run(["clang", *options, "-c", source, "-o", target], check=True)
        return target

    return compiled


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ((), ALL),
        (("FRAGS",), ALL - {"kpb_xdp"}),
        (("FRAGS", "XDP"), ALL - {"kpb_xdp", "kpb_xdp_linear"}),
    ],
)
def test_a_kernel_that_refuses_xdp_gets_the_rest(sockets, refusing, refused, left):
    """First without fragments, then without XDP at all."""
    path = refusing(*refused)
    with load_packets(path, None, {}, SETTINGS, sockets) as packets:
        assert left == set(packets.programs)


def test_xdp_that_is_not_wanted_is_not_loaded(sockets, refusing):
    """Nor are the programs of devices that this node may not have."""
    path = refusing("FRAGS", "XDP")
    with structlog.testing.capture_logs() as logged:
        with load_packets(
            path, None, {}, SETTINGS, sockets, xdp=False, bare_ip=False
        ) as packets, load_bare_ip(path, SETTINGS, packets) as bare_ip:
            assert {"kpb_tc_ingress"} == set(packets.programs)
            assert {"kpb_tc_ingress_l3"} == set(bare_ip.programs)
            same = {name: item.info().id for name, item in packets.maps.items()}
            assert same == {name: item.info().id for name, item in bare_ip.maps.items()}
    assert "packet_programs_refused" not in {entry["event"] for entry in logged}


def test_a_copy_of_one_program_has_the_same_maps(sockets, refusing):
    """It works beside the first: nothing else is loaded."""
    path = refusing()
    with load_packets(path, None, {}, SETTINGS, sockets, xdp=False) as packets, load_copy(
        path, SETTINGS, packets, "kpb_tc_ingress"
    ) as copy:
        assert {"kpb_tc_ingress"} == set(copy.programs)
        same = {name: item.info().id for name, item in packets.maps.items()}
        assert same == {name: item.info().id for name, item in copy.maps.items()}
        ids = {each.programs["kpb_tc_ingress"].info().id for each in (packets, copy)}
        assert 2 == len(ids)


def test_a_kernel_that_refuses_tc_is_told_by_name(sockets, refusing):
    """Without TC there is no packet path."""
    with pytest.raises(UnsupportedKernel, match="kpb_tc_ingress"):
        load_packets(refusing("TC"), None, {}, SETTINGS, sockets)


def test_the_sockets_do_not_need_the_packets(sockets, refusing, pins, monkeypatch):
    """The instance goes on without; the log says why."""
    path = refusing("TC")
    monkeypatch.setattr(instance_module, "object_path", lambda name: path)
    config = load_config(["--hostname-override=n1", f"--bpf-pin-path={pins}"])
    with structlog.testing.capture_logs() as logged:
        assert Instance(config)._load_packets(sockets, SETTINGS) is None
    assert "packet_path_unavailable" in {entry["event"] for entry in logged}
    assert [] == list(pins.iterdir())


def test_maps_are_shared_and_only_the_others_are_pinned(refusing, tmp_path, pins):
    """A restart finds both kinds, each under the digest of its own object."""
    path = refusing()
    ids = []
    for _ in range(2):
        with load_datapath(OBJECTS / "kube_proxy.bpf.o", pins, SIZES, SETTINGS) as sockets:
            with load_packets(path, pins, {}, SETTINGS, sockets) as packets:
                ids.append({name: item.info().id for name, item in packets.maps.items()})
                common = packets.maps.keys() & sockets.maps.keys()
                pinned = {item.name for item in packets.maps_dir.iterdir()}
                assert ids[-1].items() >= {n: sockets.maps[n].info().id for n in common}.items()
                assert packets.maps.keys() - common == pinned
                assert packets.maps_dir != sockets.maps_dir
    assert ids[0] == ids[1]
    assert {"kpb_vips", "kpb_flows"} <= ids[0].keys()
