# SPDX-License-Identifier: Apache-2.0
"""What a configuration that says nothing means, row by row of docs/parity/config.tsv."""

import json

import pytest

from kubeproxy_bpf.config.load import load

from .test_flags import rows

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
LEFT_OUT = {"featureGates", "windowsRunAsService"}
"""Fields that Go leaves out of JSON when they are empty."""
OTHER = {
    # Ours: a change is programmed at once.
    "iptables.minSyncPeriod": "0s",
    # What the mode does not use is shown as unset, as in kube-proxy (the row's remark).
    "ipvs.syncPeriod": "0s",
    "nftables.syncPeriod": "0s",
    "nftables.minSyncPeriod": "0s",
}


def expected(row):
    text = row["linux_platform_default"] or row["default_after_defaulting"].split(" if ")[0]
    if row["path"] == "nodePortAddresses":
        # The platform's default is that of another mode.
        return None
    text = OTHER.get(row["path"], text)
    try:
        return json.loads(text)
    except ValueError:
        return text


ROWS = [row for row in rows("config.tsv") if "[]" not in row["path"]]


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if not row["path"].startswith(tuple(LEFT_OUT))],
    ids=lambda row: row["path"],
)
def test_a_field_that_is_not_given_has_its_default(row):
    """As /configz and --write-config-to show it."""
    value = load([]).document
    for name in row["path"].split("."):
        if name == "splitStream":
            assert name not in value
            return
        value = value[name]

    assert expected(row) == value


def leaves(document, path=""):
    for name, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_nothing_else_is_shown():
    """Empty module patterns are left out, and so are streams that are not split."""
    shown = {row["path"] for row in ROWS} - LEFT_OUT
    shown = {path for path in shown if not path.endswith("splitStream")}

    assert shown == set(leaves(load([]).document))


def test_what_is_usually_left_out_is_shown_when_it_is_set():
    """Go leaves out empty values only."""
    gates = "--feature-gates=LoggingAlphaOptions=true"
    document = load([gates, "--log-json-split-stream", "--vmodule=a=1"]).document

    assert {"LoggingAlphaOptions": True} == document["featureGates"]
    assert document["logging"]["options"]["json"]["splitStream"]
    assert [{"filePattern": "a", "verbosity": 1}] == document["logging"]["vmodule"]
