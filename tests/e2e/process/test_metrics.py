# SPDX-License-Identifier: Apache-2.0
"""/metrics of a running proxy, asked over HTTP, against the table of kube-proxy's metrics."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.request
from datetime import datetime, timezone

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.metrics_table import DOCS, ROWS, SHOWN

from .test_process import Running

pytestmark = pytest.mark.root

USED = {
    "kubeproxy_network_programming_duration_seconds",
    "kubeproxy_proxy_healthz_total",
    "kubeproxy_proxy_livez_total",
    "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    "kubernetes_healthcheck",
    "kubernetes_healthchecks_total",
}
"""What the fixture uses of what is shown on use."""
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


class Watched(Running):
    """A proxy, and what its metrics say."""

    def ask(self, path: str, accept: str = "", method: str = "GET") -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.metrics_port}{path}",
            headers={"Accept": accept} if accept else {},
            method=method,
        )
        with urllib.request.urlopen(request) as answer:
            return answer.read().decode()

    def values(self, path: str = "/metrics") -> dict[str, float]:
        """Every sample by its text."""
        return _samples(self.ask(path))

    def change_slice(self, **annotations: str) -> str:
        """Take an endpoint from some IPv4 slice; return its address type."""
        with urllib.request.urlopen(self.master + SLICES) as answer:
            items = json.load(answer)["items"]
        found = next(item for item in items if len(item["endpoints"]) > 1)
        meta = found["metadata"]
        body = {
            "metadata": {"annotations": annotations},
            "endpoints": found["endpoints"][1:],
        }
        request = urllib.request.Request(
            f"{self.master}{SLICES}".replace(
                "/endpointslices", f"/namespaces/{meta['namespace']}/endpointslices/{meta['name']}"
            ),
            json.dumps(body).encode(),
            {"Content-Type": "application/merge-patch+json"},
            method="PATCH",
        )
        urllib.request.urlopen(request).close()
        return str(found["addressType"])


def _samples(text: str) -> dict[str, float]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def _values(port: int) -> dict[str, float]:
    """Every sample of a proxy that may not answer yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return _samples(answer.read().decode())
    except OSError:
        return {}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    watched = Watched(tmp_path_factory.mktemp("metrics"))
    try:
        watched.until(lambda: watched.get("/healthz")[0] == 200)
        yield watched
    finally:
        watched.close()


@pytest.fixture(scope="module")
def family(watched):
    """The family of the slice that changed, once that is programmed and measured."""
    before = watched.values()
    assert not [name for name in before if name.startswith("kubeproxy_network_programming")]
    watched.get("/livez")
    watched.ask("/healthz")
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    family = watched.change_slice(**{TRIGGER_TIME: now})
    name = f'kubeproxy_network_programming_duration_seconds_count{{ip_family="{family}"}}'
    watched.until(lambda: watched.values().get(name))
    return family


def shown(watched, endpoint):
    """Families by the name that the table has for them."""
    families = {}
    for family in text_string_to_metric_families(watched.ask(endpoint)):
        suffix = "_total" if family.type == "counter" else ""
        families[family.name + suffix] = family
    return families


@pytest.mark.parametrize("endpoint", ["/metrics", "/metrics/slis"])
def test_every_row_is_shown_as_in_kube_proxy(watched, family, endpoint):
    """Name, type, labels, buckets and stability, as they go over the wire."""
    families = shown(watched, endpoint)
    rows = [row for row in SHOWN if row.endpoint == endpoint]
    missing = {r.name for r in rows if r.here == "shown" or r.name in USED} - families.keys()
    assert set() == missing
    for row in (row for row in rows if row.name in families):
        found = families[row.name]
        assert row.type == found.type, row
        assert found.documentation.startswith(row.help_prefix), row
        labels = {frozenset(sample.labels) - {"le"} for sample in found.samples}
        assert {row.labels} == labels, row
        if row.buckets:
            bounds = [s.labels["le"] for s in found.samples if s.name.endswith("_bucket")]
            assert (*row.buckets, float("inf")) == tuple(map(float, dict.fromkeys(bounds))), row


def test_nothing_is_shown_that_the_tables_do_not_know(watched, family):
    """kube-proxy's table, the document for our own, and python_* of the library."""
    known = {row.name for row in ROWS if row.here != "absent"}
    documented = set(re.findall(r"`(kubeproxy_bpf_\w+)", (DOCS / "metrics.md").read_text()))
    families = shown(watched, "/metrics").keys()

    assert set() == {f for f in families - known - documented if not f.startswith("python_")}


def test_a_change_is_measured_once(watched, family):
    """From its trigger, in its family; another scrape or a change without trigger adds nothing."""
    name = f'kubeproxy_network_programming_duration_seconds_count{{ip_family="{family}"}}'
    partial = f'kubeproxy_sync_partial_proxy_rules_duration_seconds_count{{ip_family="{family}"}}'
    before = watched.values()
    watched.change_slice()
    watched.until(lambda: watched.values()[partial] > before[partial])

    assert 1 == before[name] == watched.values()[name]
    sum_name = name.replace("_count", "_sum")
    assert 0 < before[sum_name] < 60


def test_the_datapath_is_at_work(watched, family):
    """What alerts are made of: hooks, proof, room, freshness."""
    values = watched.values()

    assert 1 == values["kubeproxy_bpf_hooks_proved"]
    assert {1.0} == {v for n, v in values.items() if n.startswith("kubeproxy_bpf_hook_active{")}
    assert 0 == values["kubeproxy_bpf_writer_waiting"]
    assert 5 == values["kubeproxy_bpf_service_ports"]
    assert 5 == values['kubeproxy_bpf_map_entries{map="services"}']
    assert 5 <= values['kubeproxy_bpf_map_entries{map="frontends"}'] < 100
    assert 0 == values['kubeproxy_bpf_refused_writes_total{map="frontends"}']
    heard = 'kubeproxy_bpf_api_last_heard_timestamp_seconds{kind="EndpointSlice"}'
    assert values["process_start_time_seconds"] < values[heard]
    watched.until(lambda: 'kubeproxy_bpf_map_entries{map="tcp_origin"}' in watched.values())


def test_maps_are_no_fuller_than_they_can_be(watched, family):
    """Entries mean something only beside a capacity, and every map has one."""
    values = watched.values()
    name = "kubeproxy_bpf_map_entries{"
    entries = {n.removeprefix(name): v for n, v in values.items() if n.startswith(name)}

    assert {'map="vips"}', 'map="slots"}', 'map="backends"}', 'map="flows"}'} <= entries.keys()
    for which, count in entries.items():
        assert 0 <= count <= values[f"kubeproxy_bpf_map_capacity{{{which}"]


def test_openmetrics_is_whole(watched, family):
    """The strict parser takes all of it."""
    names = {f.name for f in parse_openmetrics(watched.ask("/metrics", OPENMETRICS))}
    assert "kubeproxy_network_programming_duration_seconds" in names


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_a_proxy_that_waits_for_another_says_so(watched, family):
    """It has no datapath to tell of, but it is there: metrics, and what it waits for."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    with subprocess.Popen(
        [
            *watched.proxy.args,  # the last of equal flags counts
            f"--healthz-bind-address=127.0.0.1:{ports[0]}",
            f"--metrics-bind-address=127.0.0.1:{ports[1]}",
        ],
        stderr=subprocess.DEVNULL,
    ) as second:
        try:
            watched.until(lambda: _values(ports[1]).get("kubeproxy_bpf_writer_waiting") == 1)
            assert "kubeproxy_bpf_service_ports" not in _values(ports[1])
        finally:
            second.terminate()


def test_results_of_checks_can_be_reset(watched, family):
    """DELETE forgets them; the next check begins anew."""
    name = 'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"}'
    assert 1 <= watched.values("/metrics/slis")[name]
    watched.ask("/metrics/slis", method="DELETE")
    assert name not in watched.values("/metrics/slis")
    watched.ask("/healthz")
    assert 1 == watched.values("/metrics/slis")[name]
