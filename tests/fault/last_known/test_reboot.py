# SPDX-License-Identifier: Apache-2.0
"""A node comes up from its snapshot without an API server, and follows the one that comes back."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.fault.last_known.node import API_VIP, api_server_service
from tests.fault.load.stage import ALL

pytestmark = [pytest.mark.root]

GONE = "10.96.0.77"
TWO = frozenset({"web-1", "web-2"})


def test_a_reboot_with_the_api_server_behind_one_of_our_services(node):
    """ClusterIPs and node ports serve what was known; then the truth, and nothing else, serves."""
    shutil.copy(node.snapshot, node.old_snapshot)
    node.end_api_server()
    node.reboot()
    assert node.ask() not in ALL

    node.start()
    node.until_answers(ALL)
    node.until_answers(ALL, place="client")
    node.until_answers(ALL, GONE)
    assert 503 == node.page(10256, "/healthz")[0] and 200 == node.page(10256, "/livez")[0]
    assert 3 == node.metric("kubeproxy_bpf_snapshot_objects")['{kind="Service"}']

    node.start_api_server(node.changed_world())
    node.until_answers(TWO)
    node.until_answers(TWO, place="client")
    assert not node.answers(GONE, 1) & ALL
    node.until(lambda: 200 == node.page(10256, "/healthz")[0])
    assert {0.0} == set(node.metric("kubeproxy_bpf_snapshot_objects").values())
    # Three of cluster IPs, and two of node ports: what was stale has gone.
    assert 5 == len([key for key in node.maps()["kpb_frontends"] if any(key[16:18])])
    node.stop()


def test_programs_that_serve_already_are_not_taken_back_to_an_older_state(node):
    """After a crash with an old snapshot the maps stay as they are, and default/kubernetes keeps
    its endpoint through a list without one, until there is another."""
    node.end_api_server()
    node.start_api_server(node.changed_world())
    with node.runs():
        node.until_answers(TWO)
        before = node.maps()
        node.end_api_server()
        node.stop(signal.SIGKILL)
        shutil.copy(node.old_snapshot, node.snapshot)
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
