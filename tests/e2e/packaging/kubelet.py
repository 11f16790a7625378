# SPDX-License-Identifier: Apache-2.0
"""What a kubelet makes of a DaemonSet on one node: containers with their volumes and environment.

Reads manifests as the API server would store them and leaves nothing out: a field of a container
or a volume that it does not know is an error, so that no part of a manifest goes untested by
silence. Starts nothing; ``container`` does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.e2e.packaging.container import Container, Mount, NodeDirectory

Manifest = dict[str, Any]
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

_CONTAINER = set(
    "name image imagePullPolicy command args env securityContext volumeMounts resources ports "
    "startupProbe livenessProbe readinessProbe terminationMessagePolicy".split()
)
_POD = set(
    "containers initContainers volumes hostNetwork serviceAccountName priorityClassName "
    "tolerations nodeSelector dnsPolicy terminationGracePeriodSeconds "
    "automountServiceAccountToken".split()
)
_SECURITY = set(
    "privileged capabilities readOnlyRootFilesystem allowPrivilegeEscalation runAsUser "
    "runAsNonRoot appArmorProfile seLinuxOptions seccompProfile".split()
)
_VARIABLE = re.compile(r"\$\(([A-Z_]+)\)")


class Kubelet:
    """Turns the pods of one node into containers."""

    def __init__(self, node: NodeDirectory, objects: list[Manifest], account: Path) -> None:
        self._node = node
        self._config_maps = {
            item["metadata"]["name"]: item["data"]
            for item in objects
            if item["kind"] == "ConfigMap"
        }
        self._account = account

    def containers(self, daemon_set: Manifest) -> tuple[list[Container], list[Container]]:
        """The init containers, in order, and the others."""
        pod = daemon_set["spec"]["template"]["spec"]
        _know("pod", pod, _POD)
        assert pod["hostNetwork"], "a proxy stands in the node's network"
        volumes = {item["name"]: self._volume(item) for item in pod.get("volumes", ())}
        return (
            [self._container(item, volumes) for item in pod.get("initContainers", ())],
            [self._container(item, volumes) for item in pod["containers"]],
        )

    def _volume(self, volume: Manifest) -> str:
        (kind,) = volume.keys() - {"name"}
        source = volume[kind]
        if kind == "hostPath":
            return self._node.show(source["path"], source.get("type", ""))
        directory = self._node.path / "volumes" / volume["name"]
        directory.mkdir(exist_ok=True)
        if kind == "configMap":
            for name, content in self._config_maps[source["name"]].items():
                (directory / name).write_text(content)
        elif kind != "emptyDir":
            raise AssertionError(f"volume {volume['name']}: no {kind} here")
        return str(directory)

    def _container(self, spec: Manifest, volumes: dict[str, str]) -> Container:
        _know("container", spec, _CONTAINER)
        security = spec.get("securityContext", {})
        _know("securityContext", security, _SECURITY)
        env = {item["name"]: self._value(item) for item in spec.get("env", ())}
        command = [*spec["command"], *spec.get("args", ())]
        mounts = [
            Mount(volumes[item["name"]], item["mountPath"], item.get("readOnly", False))
            for item in spec.get("volumeMounts", ())
        ]
        mounts.append(Mount(str(self._account), SERVICE_ACCOUNT, True))
        capabilities = security.get("capabilities", {})
        return Container(
            [_VARIABLE.sub(lambda found: env[found.group(1)], part) for part in command],
            env,
            mounts,
            security.get("privileged", False),
            [name.lower() for name in capabilities.get("add", ())],
            security.get("readOnlyRootFilesystem", False),
            self._seccomp(security.get("seccompProfile", {"type": "Unconfined"})["type"]),
        )

    def _seccomp(self, profile: str) -> bool:
        assert profile in ("RuntimeDefault", "Unconfined"), f"seccomp profile {profile}"
        return profile == "RuntimeDefault"

    def _value(self, variable: Manifest) -> str:
        if "value" in variable:
            return str(variable["value"])
        path = variable["valueFrom"]["fieldRef"]["fieldPath"]
        return {"spec.nodeName": self._node.node}[path]


def _know(what: str, given: Manifest, known: set[str]) -> None:
    unknown = given.keys() - known
    assert not unknown, f"{what}: {json.dumps(sorted(unknown))} would go untested"
