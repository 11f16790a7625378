# SPDX-License-Identifier: Apache-2.0
"""The manifests against the published schemas of the API, and against each other."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Iterator

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "manifests"
KUBEADM = ROOT / "tests" / "e2e" / "packaging" / "kubeadm" / "daemonset.yaml"
FOLDERS = ("install", "hostports", "cleanup")
VERSIONS = ("1.31", "1.36")

Manifest = dict[str, Any]


def kustomized(directory: Path) -> list[Manifest]:
    done = subprocess.run(
        ["kubectl", "kustomize", directory], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def objects() -> dict[str, list[Manifest]]:
    """All that `kubectl apply -k` would send, by folder."""
    return {name: kustomized(MANIFESTS / name) for name in FOLDERS}


def containers(daemon_set: Manifest) -> Iterator[Manifest]:
    pod = daemon_set["spec"]["template"]["spec"]
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def daemon_set_of(objects: list[Manifest]) -> Manifest:
    (found,) = [item for item in objects if item["kind"] == "DaemonSet"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_objects_fit_the_schemas_of_the_api(
    objects: dict[str, list[Manifest]], folder: str, version: str
) -> None:
    """Every field is known to the API of both ends of the supported range, with the right type."""
    for manifest in objects[folder]:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_wrong_field_would_be_found(objects: dict[str, list[Manifest]]) -> None:
    """The validator is strict: a misspelt field fails."""
    manifest = daemon_set_of(objects["install"])
    manifest = manifest | {"spec": manifest["spec"] | {"updateStratgy": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


@pytest.mark.parametrize("folder", ["install", "cleanup"])
def test_mounts_and_volumes_belong_together(
    objects: dict[str, list[Manifest]], folder: str
) -> None:
    """Every mount has its volume, and no volume is left over."""
    daemon_set = daemon_set_of(objects[folder])
    volumes = {item["name"] for item in daemon_set["spec"]["template"]["spec"]["volumes"]}
    mounted = {
        item["name"]
        for container in containers(daemon_set)
        for item in container.get("volumeMounts", ())
    }
    assert volumes == mounted


def test_the_account_is_bound_to_the_role_that_exists(objects: dict[str, list[Manifest]]) -> None:
    """The pods' account gets system:node-proxier, and with the option the Pods, nothing else."""
    by_kind = {item["kind"]: item for item in objects["install"]}
    account = by_kind["ServiceAccount"]["metadata"]
    pod = by_kind["DaemonSet"]["spec"]["template"]["spec"]
    binding = by_kind["ClusterRoleBinding"]
    assert account["name"] == pod["serviceAccountName"] == binding["subjects"][0]["name"]
    assert account["namespace"] == by_kind["DaemonSet"]["metadata"]["namespace"] == "kube-system"
    assert "system:node-proxier" == binding["roleRef"]["name"]

    option = {item["kind"]: item for item in objects["hostports"]}
    assert (
        option["ClusterRole"]["metadata"]["name"] == option["ClusterRoleBinding"]["roleRef"]["name"]
    )
    assert [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}] == (
        option["ClusterRole"]["rules"]
    )


def test_a_change_of_configuration_rolls_out(objects: dict[str, list[Manifest]]) -> None:
    """The ConfigMap's name holds a digest of its content, and the pods mount it by that name."""
    by_kind = {item["kind"]: item for item in objects["install"]}
    name = by_kind["ConfigMap"]["metadata"]["name"]
    assert name.startswith("kube-proxy-bpf-")
    volumes = by_kind["DaemonSet"]["spec"]["template"]["spec"]["volumes"]
    assert [name] == [item["configMap"]["name"] for item in volumes if "configMap" in item]


def test_the_swap_changes_the_image_and_nothing_else(tmp_path: Path) -> None:
    """kubeadm's DaemonSet with the patch is kubeadm's DaemonSet with another image."""
    before = yaml.safe_load(KUBEADM.read_text())
    (tmp_path / "daemonset.yaml").write_text(KUBEADM.read_text())
    (tmp_path / "patch.yaml").write_text((MANIFESTS / "swap" / "patch.yaml").read_text())
    # The old word for `patches`: kubectl of Debian 12 knows no other, and new ones know it too.
    kustomization = {"resources": ["daemonset.yaml"], "patchesStrategicMerge": ["patch.yaml"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    (after,) = kustomized(tmp_path)

    kubernetes_validate.validate(after, VERSIONS[-1], strict=True)
    (container,) = containers(before)
    (swapped,) = containers(after)
    assert swapped["image"] != container["image"]
    container["image"] = swapped["image"]
    assert before == after


def test_only_what_must_is_privileged(objects: dict[str, list[Manifest]]) -> None:
    """The proxy itself runs with named capabilities and a read-only root."""
    (proxy,) = daemon_set_of(objects["install"])["spec"]["template"]["spec"]["containers"]
    security = proxy["securityContext"]
    assert not security["privileged"]
    assert security["readOnlyRootFilesystem"]
    assert ["ALL"] == security["capabilities"]["drop"]
    assert proxy["resources"]["limits"]["memory"]
