# SPDX-License-Identifier: Apache-2.0
"""A node comes up from its snapshot without an API server, and follows the one that comes back."""

from __future__ import annotations

import signal

import pytest

from tests.fault.last_known.node import API_VIP, api_server_service
from tests.fault.load.stage import ALL

pytestmark = [pytest.mark.root]

GONE = "10.96.0.77"
TWO = frozenset({"web-1", "web-2"})


def test_a_reboot_with_the_api_server_behind_one_of_our_services(node):
    """ClusterIPs and node ports serve what was known; then the truth, and nothing else, serves."""
    node.end_api_server()
    node.reboot()
    looked = len(node.events("no_leftovers_found"))
    node.start()
    node.until_answers(ALL)
    node.until_answers(ALL, place="client")
    node.until_answers(ALL, GONE)
    assert (503, 200) == (node.health("/healthz"), node.health("/livez"))
    assert 3 == node.metric("kubeproxy_bpf_snapshot_objects")['{kind="Service"}']

    # A process that ends now leaves memories to the next one, and no more than that.
    node.stop(signal.SIGKILL)
    recalled = len(node.events("snapshot_recalled"))
    node.start()
    node.until(lambda: len(node.events("snapshot_recalled")) > recalled)
    node.until_answers(ALL)
    assert 3 == node.metric("kubeproxy_bpf_snapshot_objects")['{kind="Service"}']

    # Rules of a kube-proxy may be newer than a memory.
    assert looked == len(node.events("no_leftovers_found"))

    node.start_api_server(node.changed_world())
    node.until_answers(TWO)
    node.until_answers(TWO, place="client")
    node.until(lambda: len(node.events("no_leftovers_found")) > looked)
    node.until(lambda: 200 == node.health("/healthz"))
    assert {0.0} == set(node.metric("kubeproxy_bpf_snapshot_objects").values())
    # Three of cluster IPs, and two of node ports: what was stale has gone.
    assert 5 == len([key for key in node.maps()["kpb_frontends"] if any(key[16:18])])
    node.stop()


def test_programs_that_serve_already_are_not_taken_back_to_an_older_state(node):
    """After a crash with an old snapshot the maps stay as they are, and default/kubernetes keeps
    its endpoint through a list without one, until there is another."""
    old = node.snapshot.read_bytes()
    node.end_api_server()
    node.start_api_server(node.changed_world())
    node.start_and_sync()
    node.until_answers(TWO)
    before = node.maps()
    node.end_api_server()
    node.stop(signal.SIGKILL)
    node.snapshot.write_bytes(old)
    node.start()
    node.until(lambda: node.events("snapshot_not_needed")[1:])
    assert before == node.maps() and TWO == node.answers()

    kubernetes, api_slice = api_server_service(node.sandbox.layout.gateway.v4)
    node.start_api_server([kubernetes, *node.pods("web-1"), node.web()])
    node.until_answers({"web-1"})
    assert node.ask(vip=API_VIP, port=443).startswith("HTTP/1")
    api_slice["ports"][0]["port"] = 8080
    api_slice["endpoints"][0]["addresses"] = [node.sandbox.layout.addresses("web-3").v4]
    node.put(api_slice)
    node.until(lambda: "web-3" == node.ask(vip=API_VIP, port=443))
    node.stop()
