# SPDX-License-Identifier: Apache-2.0
"""Every metric of kube-proxy is here as it is there, or is absent for a reason that is written."""

import asyncio
import re
from typing import NamedTuple

import pytest
import yaml

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.serve import (
    devices,
    flows,
    metrics_datapath,
    metrics_kubernetes,
    metrics_process,
    services,
)
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.serve.flows import FlowReading
from kubeproxy_bpf.serve.metrics_datapath import DatapathReading, HookReading
from kubeproxy_bpf.serve.metrics_health import CheckMeters
from kubeproxy_bpf.serve.services import ServicesReading
from kubeproxy_bpf.telemetry import Telemetry
from tests.metrics_table import DOCS, ROWS, SHOWN, Row


class Declared(NamedTuple):
    type: str
    labels: frozenset[str]
    bounds: tuple[float, ...]
    help: str


def read():
    """The metrics of a process that has not begun to serve."""
    telemetry = Telemetry(load(["--hostname-override=n1"]), ("IPv4",), lambda: False)
    return asyncio.run(telemetry.read())


def declared():
    """All that this process may show under the names of others."""
    families = [*read(), *metrics_process.families()]
    slis = list(CheckMeters().families())
    return {
        (family.name, endpoint): Declared(
            family.kind, frozenset(family.labels), family.bounds, family.help
        )
        for endpoint, found in (("/metrics", families), ("/metrics/slis", slis))
        for family in found
    }


DECLARED = declared()
OURS = [row for row in SHOWN if not row.of_the_library]
"""The running process is asked for the others, by a test of its own."""


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_what_is_shown_is_as_in_kube_proxy(row: Row):
    """Name, type, labels, buckets, and the level of stability before the help."""
    found = DECLARED[row.name, row.endpoint]

    assert row.type == found.type
    assert row.labels == found.labels
    assert row.buckets == found.bounds
    assert found.help.startswith(row.help_prefix)


@pytest.mark.parametrize("row", [row for row in ROWS if row.here == "absent"], ids=lambda r: r.name)
def test_what_is_absent_is_absent_for_a_reason(row: Row):
    """Nobody finds a metric here that the table calls absent, or one without a reason."""
    assert row.why
    assert (row.name, row.endpoint) not in DECLARED


def test_nothing_else_is_shown_under_the_names_of_others():
    """What is not in kube-proxy's table begins with our own name."""
    known = {(row.name, row.endpoint) for row in ROWS}
    others = {key for key in DECLARED if not key[0].startswith("kubeproxy_bpf_")}
    assert set() == others - known


def test_the_version_is_one_that_alerts_can_compare():
    """They take what stands before the second point for the version of Kubernetes."""
    (build,) = [f for f in metrics_kubernetes.families({}) if f.name == "kubernetes_build_info"]
    (labels,) = build.series
    assert dict(zip(build.labels, labels))["git_version"].startswith("v1.36.")


def test_feature_gates_show_what_is_configured():
    """Each with its stage: empty for general availability."""
    families = metrics_kubernetes.families({"ComponentFlagz": False, "AllAlpha": True})
    (gates,) = [f for f in families if f.name == "kubernetes_feature_enabled"]

    assert 0 == gates.series[("ComponentFlagz", "BETA")]
    assert 1 == gates.series[("LoggingAlphaOptions", "ALPHA")]
    assert 1 == gates.series[("AllowServiceExternalIPs", "")]


def documented(section):
    """Rows of the tables of a section: name to type and labels, as far as they tell."""
    rows = re.findall(
        r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([\w, ]*?) *\|", section, re.MULTILINE
    )
    return {
        name: (kind, frozenset(filter(None, labels.split(", ")))) for name, kind, labels in rows
    }


def test_the_document_says_of_kube_proxys_metrics_what_the_table_says():
    """Types and labels of what is shown, reasons of what is absent."""
    _, theirs = (DOCS / "metrics.md").read_text().split("\n## kube-proxy's\n")
    shown, absent = theirs.split("\n### Absent\n")
    assert {row.name: (row.type, row.labels) for row in SHOWN} == documented(shown)
    reasons = {
        name: why.strip()
        for names, why in re.findall(r"^\| (`.*`) \| (.*) \|$", absent, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert {row.name: row.why for row in ROWS if row.here == "absent"} == reasons


def test_the_document_names_every_metric_of_our_own():
    """With type and labels, and none that does not exist."""
    ours, _ = (DOCS / "metrics.md").read_text().split("\n## kube-proxy's\n")
    families = [
        *read(),
        *metrics_datapath.families(DatapathReading(hooks=HookReading(proved=True))),
        *devices.families(DeviceReading()),
        *flows.families(FlowReading(1, 2, 3)),
        *services.families(ServicesReading(packet_path=True, traffic=True)),
    ]
    declared = {f.name: (f.kind, frozenset(f.labels)) for f in families}
    expected = {name: what for name, what in declared.items() if name.startswith("kubeproxy_bpf_")}
    assert expected == documented(ours)


def test_alerts_ask_for_metrics_that_exist():
    """A name with a slip never fires."""
    text = (DOCS / "metrics.md").read_text()
    (rules,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    asked = {
        name.removesuffix("_bucket")
        for group in yaml.safe_load(rules)["groups"]
        for rule in group["rules"]
        for name in re.findall(r"\bkubeproxy_\w+", rule["expr"])
    }
    assert asked
    assert asked <= documented(text).keys()
