# SPDX-License-Identifier: Apache-2.0
"""docs/install.md: its commands do what it says, as far as no cluster is needed for them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "install.md"
KUBEADM = ROOT / "tests" / "e2e" / "packaging" / "kubeadm" / "daemonset.yaml"
_BLOCK = re.compile(r"^( *)```console\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `([A-Z_]+)` \|", re.MULTILINE)


def blocks() -> list[str]:
    """All commands of the document, block by block."""
    return [
        text.replace(f"\n{indent}", "\n").strip()
        for indent, text in _BLOCK.findall(DOCUMENT.read_text())
    ]


def block_with(words: str) -> str:
    (found,) = [block for block in blocks() if words in block]
    return found


def run(script: str, directory: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", script], cwd=directory, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout


def container(text: str) -> dict[str, Any]:
    (found,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_three_settings_are_set_by_the_commands_given(tmp_path: Path) -> None:
    """After them every object has the image, the server and the pods' addresses of one's own."""
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    commands = block_with("cd manifests/install")

    run(commands.replace(r"\1 dev|", r"\1 v9|"), tmp_path)

    objects = list(yaml.safe_load_all(run("kubectl kustomize manifests/install", tmp_path)))
    by_kind = {item["kind"]: item for item in objects}
    data = by_kind["ConfigMap"]["data"]
    kubeconfig = yaml.safe_load(data["kubeconfig.conf"])
    assert "https://10.0.0.10:6443" == kubeconfig["clusters"][0]["cluster"]["server"]
    assert "10.244.0.0/16" == yaml.safe_load(data["config.conf"])["clusterCIDR"]
    pod = by_kind["DaemonSet"]["spec"]["template"]["spec"]
    images = {item["image"] for item in (*pod["initContainers"], *pod["containers"])}
    assert {"kube-proxy-bpf:v9"} == images


@pytest.mark.parametrize("words", ["set image", "--patch-file"])
def test_both_ways_to_swap_give_the_same(words: str) -> None:
    """`set image` and the patch leave kubeadm's DaemonSet with our image, all else as it was."""
    (command,) = [line for block in blocks() for line in block.splitlines() if words in line]
    local = re.sub(r" daemonset[/ ]kube-proxy", f" --local -f {KUBEADM}", command) + " -o yaml"

    swapped = container(run(local, ROOT))

    before = container(KUBEADM.read_text())
    assert "kube-proxy-bpf:dev" == swapped.pop("image")
    assert before.pop("image")
    assert before == {name: swapped[name] for name in before}


def test_every_capability_has_its_row_and_no_row_is_left_over() -> None:
    """The table holds exactly the capabilities of the manifest."""
    daemon_set = yaml.safe_load((ROOT / "manifests/install/daemonset.yaml").read_text())
    (proxy,) = daemon_set["spec"]["template"]["spec"]["containers"]
    table = DOCUMENT.read_text().split("### Capabilities")[1]
    assert sorted(proxy["securityContext"]["capabilities"]["add"]) == sorted(_ROW.findall(table))


def test_every_folder_that_is_applied_exists() -> None:
    """No command names a manifest that is not there."""
    text = "\n".join(blocks())
    named = set(re.findall(r"(?:-k|--patch-file) (manifests/\S+)", text))
    assert {
        "manifests/install",
        "manifests/cleanup",
        "manifests/hostports",
        "manifests/restricted",
    } <= named
    assert all((ROOT / name).exists() for name in named)
