# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/migrate.md do what the page says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from tests.e2e.takeover.conftest import Node

ROOT = Path(__file__).parents[3]
STOCK = ROOT / "tests" / "e2e" / "packaging" / "kubeadm" / "daemonset.yaml"
PAGE = (ROOT / "docs" / "migrate.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
CHANGES = [each for each in COMMANDS if {"patch", "set"} & set(each)]
FOLDERS = sorted({each[each.index("-k") + 1] for each in COMMANDS if "-k" in each})
OBJECTS = sorted({word for each in COMMANDS for word in each if word.startswith("daemonset/")})


CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
"""


def run(*argv: str) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def changed(command: list[str], before: Path) -> dict[str, Any]:
    """A DaemonSet after a command of the page, without an API server."""
    rest = [each for each in command[1:] if each not in ("daemonset", "daemonset/kube-proxy")]
    rest = [each for each in rest if each != "kube-proxy"]
    loaded: dict[str, Any] = yaml.safe_load(
        run("kubectl", *rest, "--local", "-f", str(before), "-o", "yaml")
    )
    return loaded


def plain(value: Any) -> Any:
    """Without what only spells out a default: kubectl adds some and drops others."""
    if isinstance(value, dict):
        inner = {key: plain(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each not in ({}, None, False)}
    return [plain(each) for each in value] if isinstance(value, list) else value


def rendered() -> Iterator[dict[str, Any]]:
    yield yaml.safe_load(STOCK.read_text())
    for folder in FOLDERS:
        yield from yaml.safe_load_all(run("kubectl", "kustomize", folder))


@pytest.mark.parametrize("command", CHANGES, ids=" ".join)
def test_a_change_changes_the_image_or_the_strategy_alone(
    command: list[str], tmp_path: Path
) -> None:
    """Nothing else of the stock DaemonSet is touched, there and back."""
    stock = tmp_path / "daemonset.yaml"
    stock.write_text(STOCK.read_text().replace("v1.36.2", "v1.36.1"))
    before, after = plain(yaml.safe_load(stock.read_text())), plain(changed(command, stock))
    difference = {key for key in after["spec"] if after["spec"][key] != before["spec"].get(key)}
    if difference == {"updateStrategy"}:
        assert after["spec"]["updateStrategy"] == {"type": "OnDelete"}
        return
    assert difference <= {"template"}
    (was,) = before["spec"]["template"]["spec"]["containers"]
    (container,) = after["spec"]["template"]["spec"]["containers"]
    assert {**container, "image": was["image"]} == was
    expected = command[-1].partition("=")[2] if "set" in command else "kube-proxy-bpf:dev"
    assert container["image"] == expected


def test_what_is_waited_for_is_in_the_manifests() -> None:
    """``rollout status`` names a DaemonSet of kubeadm's or of a folder that was applied."""
    names = {
        f"daemonset/{each['metadata']['name']}"
        for each in rendered()
        if each["kind"] == "DaemonSet"
    }
    assert set(OBJECTS) <= names


@pytest.mark.root
def test_what_asks_the_api_server_is_understood_by_it() -> None:
    """Selectors and names of the page, against a server."""
    asking = [each for each in COMMANDS if "pod" in each]
    asking += [shlex.split(each) for each in re.findall(r"`(kubectl [^`]*get [^`]*)`", PAGE)]
    assert len(asking) == 2
    with Sandbox.up("kpbt-take-page", options=Options(proxy=False)) as sandbox:
        place = Node(sandbox.layout.netns("net"))
        kubectl = ("kubectl", f"--kubeconfig={sandbox.kubeconfig}")
        place.run(*kubectl, "create", "-f", "-", text=CONFIG_MAP)
        for command in asking:
            place.run(*kubectl, *command[1:])


def test_the_command_on_a_node_is_our_own() -> None:
    """What is left to run on the page is what the tests of the cleanup run."""
    assert [each for each in COMMANDS if each[0] != "kubectl"] == [["kube-proxy", "--cleanup"]]
