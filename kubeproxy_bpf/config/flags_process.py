# SPDX-License-Identifier: Apache-2.0
"""Flags of kube-proxy about the process, the API server and the log. Gathered by ``flags``."""

from __future__ import annotations

from kubeproxy_bpf.config import pflag
from kubeproxy_bpf.config.known import known

_NO_LIMIT = "three watches and a few lists are all that is asked of the API server"
_ALPHA_LOG = "the log is one unbuffered stream; as in kube-proxy, LoggingAlphaOptions must be on"

PROCESS = (
    known("help", pflag.BOOL, False, "", "show this help", beside=True, short="h"),
    known(
        "version",
        pflag.VERSION,
        "false",
        "",
        "--version, --version=raw prints version information and quits",
        beside=True,
        note="a value that begins with v is accepted, the reported version stays what it is",
    ),
    known(
        "config",
        pflag.STRING,
        "",
        "",
        "path of the configuration file",
        beside=True,
        note="a write to the file or its renaming ends the process with an error; "
        "a ConfigMap that the kubelet swaps is logged and counts from the next start, "
        "as in kube-proxy",
    ),
    known(
        "write-config-to",
        pflag.STRING,
        "",
        "",
        "write the effective configuration to this file and exit",
        beside=True,
    ),
    known(
        "cleanup",
        pflag.BOOL,
        False,
        "",
        "remove everything of this proxy and of kube-proxy from the node, and exit",
        beside=True,
        note="exit code 1 if anything is left, or if a proxy of this instance runs",
    ),
    known(
        "init-only",
        pflag.BOOL,
        False,
        "",
        "do what needs more privileges than the daily work, and exit",
        beside=True,
        note="unlike kube-proxy it asks for no Node, and needs no API server",
    ),
    known(
        "hostname-override",
        pflag.STRING,
        "",
        "hostnameOverride",
        "name of the Node object, if not the host name",
        beside=True,
    ),
    known(
        "master",
        pflag.STRING,
        "",
        "",
        "URL of the API server, overrides the kubeconfig",
        beside=True,
    ),
    known(
        "oom-score-adj",
        pflag.INT32,
        -999,
        "oomScoreAdj",
        "oom-score-adj value of the process, within [-1000, 1000]",
    ),
    known(
        "boot-id-file",
        pflag.STRING,
        "/proc/sys/kernel/random/boot_id",
        "",
        "unused",
        beside=True,
        no_effect="nor has it in kube-proxy, where a library brings it along",
    ),
    known(
        "machine-id-file",
        pflag.STRING,
        "/etc/machine-id,/var/lib/dbus/machine-id",
        "",
        "unused",
        beside=True,
        no_effect="nor has it in kube-proxy, where a library brings it along",
    ),
)

API = (
    known(
        "kubeconfig",
        pflag.STRING,
        "",
        "clientConnection.kubeconfig",
        "path of a kubeconfig; empty: in-cluster",
    ),
    known(
        "kube-api-content-type",
        pflag.STRING,
        "application/vnd.kubernetes.protobuf",
        "clientConnection.contentType",
        "content type of requests",
        no_effect="JSON is asked for, which every API server speaks",
    ),
    known(
        "kube-api-burst",
        pflag.INT32,
        10,
        "clientConnection.burst",
        "burst of requests to the API server",
        no_effect=_NO_LIMIT,
    ),
    known(
        "kube-api-qps",
        pflag.FLOAT32,
        5.0,
        "clientConnection.qps",
        "requests a second to the API server",
        no_effect=_NO_LIMIT,
    ),
    known(
        "config-sync-period",
        pflag.DURATION,
        900.0,
        "configSyncPeriod",
        "how often objects of the API are handed out again",
        no_effect="what failed is tried again by itself, nothing has to be handed out twice",
    ),
    known("feature-gates", pflag.MAP_STRING_BOOL, {}, "featureGates", "name=true,..."),
)

LOGGING = (
    known("v", pflag.LEVEL, 0, "logging.verbosity", "verbosity of the log", beside=True, short="v"),
    known(
        "vmodule",
        pflag.VMODULE,
        (),
        "logging.vmodule",
        "unused",
        beside=True,
        no_effect="it names source files of kube-proxy",
    ),
    known("logging-format", pflag.STRING, "text", "logging.format", "text or json", beside=True),
    known(
        "log-flush-frequency",
        pflag.DURATION,
        5.0,
        "logging.flushFrequency",
        "unused",
        beside=True,
        no_effect="each line is written at once",
    ),
    *(
        known(
            f"log-{style}-split-stream",
            pflag.BOOL,
            False,
            f"logging.options.{style}.splitStream",
            "unused",
            beside=True,
            no_effect=_ALPHA_LOG,
        )
        for style in ("text", "json")
    ),
    *(
        known(
            f"log-{style}-info-buffer-size",
            pflag.QUANTITY,
            "0",
            f"logging.options.{style}.infoBufferSize",
            "unused",
            beside=True,
            no_effect=_ALPHA_LOG,
        )
        for style in ("text", "json")
    ),
)
