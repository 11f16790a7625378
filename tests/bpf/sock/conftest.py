# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the socket hooks: places and programs once per module, clean maps per test."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

import kubeproxy_bpf
from kubeproxy_bpf.dataplane.attach import attach, close_all
from kubeproxy_bpf.dataplane.loader import Datapath, load_datapath
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings, netns_cookie
from tests.bpf.world import World

from .places import Places

OBJECT = Path(kubeproxy_bpf.__file__).parent / "obj" / "kube_proxy.bpf.o"
SIZES = {
    "kpb_vips": 256,
    "kpb_frontends": 256,
    "kpb_services": 256,
    "kpb_records": 1024,
    "kpb_slots": 8192,
    "kpb_backends": 256,
    "kpb_affinity": 256,
    "kpb_sock_flows": 4096,
    "kpb_tcp_origin": 1024,
    "kpb_traffic": 256,
}


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    made = Places()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def config_flags() -> int:
    """Modules that need other settings override this."""
    return ConfigFlags.TCP_ORIGIN


@pytest.fixture(scope="module")
def datapath(places: Places, config_flags: int) -> Iterator[Datapath]:
    """The programs, attached to the cgroup of the places; the node's namespace is the host's."""
    settings = Settings(places.run(netns_cookie), 1, config_flags)
    with load_datapath(OBJECT, None, SIZES, settings) as loaded:
        links = attach(loaded.programs, places.cgroup)
        try:
            yield loaded
        finally:
            close_all(links.values())


@pytest.fixture
def world(datapath: Datapath) -> Iterator[World]:
    made = World(datapath)
    made.clear()
    yield made
    made.clear()
