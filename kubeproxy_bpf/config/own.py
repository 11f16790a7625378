# SPDX-License-Identifier: Apache-2.0
"""Settings that kube-proxy has no word for: ``--bpf-*`` flags and KubeProxyBpfConfiguration.

They stand in a document of their own, so that a stock kube-proxy that reads the same ConfigMap
never meets them: the file named by --bpf-config, or ``bpf.conf`` beside the file of --config. A
field is the flag's name without ``bpf-``, in camel case. Flags beat it. Called by ``load``.
"""

from __future__ import annotations

import os
from typing import Any, Mapping

from kubeproxy_bpf.config import pflag
from kubeproxy_bpf.config.document import json_type
from kubeproxy_bpf.config.pflag import Flag
from kubeproxy_bpf.config.schema import MapSizes
from kubeproxy_bpf.config.text import read_mapping
from kubeproxy_bpf.errors import ConfigError

API_VERSION = "config.kubeproxy-bpf.io/v1alpha1"
KIND = "KubeProxyBpfConfiguration"
FILE_NAME = "bpf.conf"
PREFIX = "bpf-"

_SIZES = MapSizes()

BPF_CONFIG = Flag(
    "bpf-config",
    pflag.STRING,
    "",
    f"path of a {KIND}; empty: {FILE_NAME} beside the file of --config, if there is one",
)

SETTINGS = (
    Flag(
        "bpf-takeover",
        pflag.STRING,
        "clean",
        "rules that a kube-proxy left, once ours serve: clean, report or off",
    ),
    Flag(
        "bpf-forward-accept",
        pflag.STRING,
        "auto",
        "accept forwarded service traffic where FORWARD's policy is DROP: auto, on, off",
    ),
    Flag(
        "bpf-pins",
        pflag.STRING,
        "auto",
        "maps and links on a bpffs of the host: auto (where there is one), on, off",
    ),
    Flag(
        "bpf-cgroup-root",
        pflag.STRING,
        "",
        "cgroup2 directory to hook; empty: found in mountinfo",
    ),
    Flag(
        "bpf-pin-path",
        pflag.STRING,
        "/sys/fs/bpf/kube-proxy",
        "directory on a bpffs for our pins",
    ),
    Flag(
        "bpf-state-path",
        pflag.STRING,
        "/run/kube-proxy-bpf",
        "directory for what cleanup must undo",
    ),
    Flag(
        "bpf-snapshot-path",
        pflag.STRING,
        "",
        "file that keeps the last known API objects over a reboot; empty: none",
    ),
    Flag(
        "bpf-audit-period",
        pflag.DURATION,
        60.0,
        "how often the maps are compared with what was programmed, and repaired; 0: never",
    ),
    Flag("bpf-tcp-origin", pflag.BOOL, True, "getpeername shows the VIP"),
    Flag(
        "bpf-local-source",
        pflag.STRING,
        "masquerade",
        "what local backends see: preserve, masquerade",
    ),
    Flag(
        "bpf-snat-ports",
        pflag.PORT_RANGE,
        (10000, 29999),
        "source ports of masqueraded flows, first-last",
    ),
    Flag(
        "bpf-forwarding",
        pflag.STRING,
        "snat",
        "remote backends' answers: snat, dsr, hybrid (TCP dsr)",
    ),
    Flag(
        "bpf-devices",
        pflag.STRING_SLICE,
        (),
        "uplinks, names or globs; empty: found by themselves",
    ),
    Flag("bpf-xdp", pflag.STRING, "off", "XDP at uplinks: off, auto, native, generic"),
    Flag(
        "bpf-algorithm", pflag.STRING, "random", "choice of backends: random, maglev (consistent)"
    ),
    Flag(
        "bpf-redirect-peer",
        pflag.BOOL,
        False,
        "packets go straight into local pods, past the host's netfilter and its policies",
    ),
    Flag("bpf-max-flows", pflag.INT32, 0, "entries of flows, two or four each; 0: from memory"),
    Flag("bpf-service-metrics", pflag.INT32, 100, "services with metrics of their own; 0: none"),
    Flag(
        "bpf-service-traffic",
        pflag.BOOL,
        False,
        "count connections, packets and bytes of services: 24 bytes of each and processor",
    ),
    Flag("bpf-max-frontends", pflag.INT32, _SIZES.frontends, "entries of vips and frontends"),
    Flag("bpf-max-services", pflag.INT32, _SIZES.services, "entries of services"),
    Flag("bpf-max-slots", pflag.INT32, _SIZES.slots, "entries of slots"),
    Flag("bpf-max-backends", pflag.INT32, _SIZES.backends, "entries of backends"),
    Flag("bpf-max-affinity", pflag.INT32, _SIZES.affinity, "entries of affinity"),
)


def field_of(flag: Flag) -> str:
    """The twin of a flag in the file: ``bpf-max-flows`` is ``maxFlows``."""
    first, *rest = flag.name.removeprefix(PREFIX).split("-")
    return first + "".join(word.capitalize() for word in rest)


def path_of(flags: Mapping[str, Any]) -> str:
    """The file to read; empty if there is none."""
    if flags["bpf-config"]:
        return str(flags["bpf-config"])
    if flags["config"]:
        beside = os.path.join(os.path.dirname(flags["config"]), FILE_NAME)
        return beside if os.path.exists(beside) else ""
    return ""


def read_settings(path: str) -> dict[str, Any]:
    """What the file says, by the names of flags.

    Raises:
        ConfigError: with every problem of the file.
    """
    mapping = read_mapping(path)
    problems = [f"{path}: {problem}" for problem in mapping.duplicates]
    document = mapping.content
    for name, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.pop(name, None) != wanted:
            problems.append(f'{path}: {name}: must be "{wanted}"')
    twins = {field_of(flag): flag for flag in SETTINGS}
    settings = {}
    for name, value in document.items():
        try:
            flag = twins[name]
            settings[flag.name] = _value(flag, value)
        except KeyError:
            problems.append(f'{path}: unknown field "{name}"')
        except ValueError as error:
            problems.append(f"{path}: {name}: {error}")
    if problems:
        raise ConfigError(problems)
    return settings


def _value(flag: Flag, value: Any) -> Any:
    wanted = {pflag.BOOL: "bool", pflag.INT32: "number", pflag.STRING_SLICE: "array"}
    kind = wanted.get(flag.type, "string")
    if kind == "string" and isinstance(value, bool):
        # To YAML the bare words on and off are booleans; here they are words.
        value = "on" if value else "off"
    if json_type(value) != kind:
        raise ValueError(f"wants {kind}, not {json_type(value)}")
    if kind == "array":
        if not all(isinstance(item, str) for item in value):
            raise ValueError("must hold strings only")
        return tuple(value)
    return value if kind == "bool" else flag.type.parse(str(value))
