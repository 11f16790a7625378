# SPDX-License-Identifier: Apache-2.0
"""What does not hold is told in kube-proxy's words, under its field paths."""

import pytest

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
ROOT = "KubeProxyConfiguration"
CONNTRACK = f"{ROOT}.KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration"
DETECT = f"{ROOT}.DetectLocalConfiguration"


@pytest.fixture
def problems(tmp_path):
    def problems_of(text="", *flags):
        argv = [*flags]
        if text:
            path = tmp_path / "config.conf"
            path.write_text(HEAD + text)
            argv.append(f"--config={path}")
        try:
            load(argv)
        except ConfigError as error:
            return list(error.problems)
        return []

    return problems_of


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "featureGates: {Nonsense: true}",
            f"{ROOT}.featureGates: unrecognized feature gate: Nonsense",
        ),
        (
            "featureGates: {NFTablesProxyMode: false}",
            f"{ROOT}.featureGates: cannot set feature gate NFTablesProxyMode to false, "
            "feature is locked to true",
        ),
        (
            "iptables: {masqueradeBit: 32}",
            f"{ROOT}.KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 32: "
            "must be within the range [0, 31]",
        ),
        (
            "mode: nftables\nnftables: {masqueradeBit: -1}",
            f"{ROOT}.KubeProxyNFTablesConfiguration.MasqueradeBit: Invalid value: -1: "
            "must be within the range [0, 31]",
        ),
        (
            "mode: ipvs\nipvs: {tcpTimeout: -1s}",
            f'{ROOT}.KubeProxyIPVSConfiguration.TCPTimeout: Invalid value: "-1s": '
            "must be greater than or equal to 0",
        ),
        (
            "mode: ipvs\nipvs: {tcpFinTimeout: -1s}",
            f'{ROOT}.KubeProxyIPVSConfiguration.TCPFinTimeout: Invalid value: "-1s": '
            "must be greater than or equal to 0",
        ),
        (
            "mode: ipvs\nipvs: {udpTimeout: -1s}",
            f'{ROOT}.KubeProxyIPVSConfiguration.UDPTimeout: Invalid value: "-1s": '
            "must be greater than or equal to 0",
        ),
        (
            "mode: ipvs\nipvs: {excludeCIDRs: [10.0.0.0/8, x]}",
            f'{ROOT}.KubeProxyIPVSConfiguration.ExcludeCidrs[1]: Invalid value: "x": '
            "must be a valid CIDR",
        ),
        (
            "conntrack: {maxPerCore: -1}",
            f"{CONNTRACK}.MaxPerCore: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "conntrack: {min: -1}",
            f"{CONNTRACK}.Min: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "conntrack: {tcpEstablishedTimeout: -1h}",
            f'{CONNTRACK}.TCPEstablishedTimeout: Invalid value: "-1h0m0s": '
            "must be greater than or equal to 0",
        ),
        (
            "conntrack: {tcpCloseWaitTimeout: -1s}",
            f'{CONNTRACK}.TCPCloseWaitTimeout: Invalid value: "-1s": '
            "must be greater than or equal to 0",
        ),
        (
            "conntrack: {udpTimeout: -1s}",
            f'{CONNTRACK}.UDPTimeout: Invalid value: "-1s": must be greater than or equal to 0',
        ),
        (
            "conntrack: {udpStreamTimeout: -1s}",
            f'{CONNTRACK}.UDPStreamTimeout: Invalid value: "-1s": '
            "must be greater than or equal to 0",
        ),
        (
            "oomScoreAdj: -1001",
            f"{ROOT}.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: -1001: "
            "must be within the range [-1000, 1000]",
        ),
        (
            "mode: userspace",
            f'{ROOT}.Mode.ProxyMode: Invalid value: "userspace": must be iptables, ipvs, nftables '
            "or blank (blank means the best-available proxy [currently iptables])",
        ),
        (
            "clientConnection: {burst: -1}",
            f"{ROOT}.ClientConnection.Burst: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "configSyncPeriod: -1s",
            f'{ROOT}.ConfigSyncPeriod: Invalid value: "-1s": must be greater than 0',
        ),
        (
            "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}",
            f'{ROOT}.SyncPeriod: Invalid value: "2s": '
            f"must be greater than or equal to {ROOT}.MinSyncPeriod",
        ),
        (
            "mode: ipvs\nipvs: {syncPeriod: 1s, minSyncPeriod: 2s}",
            f'{ROOT}.SyncPeriod: Invalid value: "2s": '
            f"must be greater than or equal to {ROOT}.MinSyncPeriod",
        ),
        (
            "mode: nftables\nnftables: {minSyncPeriod: -2s}",
            f'{ROOT}.MinSyncPeriod: Invalid value: "-2s": must be greater than or equal to 0',
        ),
        (
            "bindAddress: nowhere",
            f'{ROOT}.BindAddress: Invalid value: "nowhere": '
            "not a valid textual representation of an IP address",
        ),
        (
            "healthzBindAddress: a:b:1",
            f'{ROOT}.HealthzBindAddress: Invalid value: "a:b:1": must be IP:port',
        ),
        (
            "logging: {vmodule: [{filePattern: a, verbosity: 2147483648}]}",
            f"{ROOT}.logging.vmodule[0]: Invalid value: 2147483648: Must be <= 2147483647",
        ),
        (
            "healthzBindAddress: 1.2.3.4:0",
            f'{ROOT}.HealthzBindAddress: Invalid value: "0": must be a valid port',
        ),
        (
            "healthzBindAddress: localhost:80",
            f'{ROOT}.HealthzBindAddress: Invalid value: "localhost": must be a valid IP',
        ),
        (
            "metricsBindAddress: 1.2.3.4.5",
            f'{ROOT}.MetricsBindAddress: Invalid value: "1.2.3.4.5": must be IP:port',
        ),
        (
            "nodePortAddresses: [10.0.0.0/8, 10.0.0.300/8]",
            f'{ROOT}.NodePortAddresses[1]: Invalid value: "10.0.0.300/8": must be a valid CIDR',
        ),
        (
            "nodePortAddresses: [10.0.0.0/8, primary]",
            f'{ROOT}.NodePortAddresses[1]: Invalid value: "primary": '
            "can't use both 'primary' and CIDRs",
        ),
        (
            "showHiddenMetricsForVersion: '1.30'",
            f'{ROOT}.ShowHiddenMetricsForVersion: Invalid value: "1.30": '
            "--show-hidden-metrics-for-version must be omitted or have the value '1.35'. "
            "Only the previous minor version is allowed",
        ),
        (
            "detectLocalMode: Guess",
            f'{ROOT}.DetectLocalMode: Unsupported value: "Guess": supported values: '
            '"ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix", ""',
        ),
        (
            "detectLocalMode: BridgeInterface",
            f'{DETECT}.InterfaceName: Invalid value: "": must not be empty',
        ),
        (
            "detectLocalMode: InterfaceNamePrefix",
            f'{DETECT}.InterfacePrefix: Invalid value: "": must not be empty',
        ),
        (
            "clusterCIDR: 10.0.0.0/8,x",
            f'{DETECT}.ClusterCIDRs[1]: Invalid value: "x": must be a valid CIDR block '
            "(e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
        ),
        (
            "clusterCIDR: 10.0.0.0/8,11.0.0.0/8",
            f"{DETECT}.ClusterCIDRs: Invalid value: [10.0.0.0/8, 11.0.0.0/8]: must be a either a "
            "single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]",
        ),
        (
            "clusterCIDR: '10.0.0.0/8,fd00::/8,11.0.0.0/8'",
            f"{DETECT}.ClusterCIDRs: Invalid value: [10.0.0.0/8, fd00::/8, 11.0.0.0/8]: must be a "
            "either a single CIDR or dual-stack pair of CIDRs "
            "(e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]",
        ),
        (
            "logging: {format: xml}",
            f'{ROOT}.logging.format: Invalid value: "xml": Unsupported log format',
        ),
        (
            "logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}",
            f"{ROOT}.logging.vmodule: Forbidden: Only supported for text log format",
        ),
        (
            "logging: {flushFrequency: -1s}",
            f'{ROOT}.logging.flushFrequency: Invalid value: "-1s": must be greater than 0',
        ),
        (
            "logging: {verbosity: 2147483648}",
            f"{ROOT}.logging.verbosity: Invalid value: 2147483648: Must be <= 2147483647",
        ),
        (
            "logging: {vmodule: [{verbosity: 1}]}",
            f"{ROOT}.logging.vmodule[0]: Required value: File pattern must not be empty",
        ),
        (
            "logging: {vmodule: [{filePattern: 'a=b'}]}",
            f'{ROOT}.logging.vmodule[0]: Invalid value: "a=b": '
            "File pattern must not contain equal sign or comma",
        ),
        (
            "logging: {options: {json: {splitStream: true}}}",
            f"{ROOT}.logging.options.json.splitStream: Forbidden: "
            "Feature LoggingAlphaOptions is disabled",
        ),
        (
            "logging: {options: {text: {infoBufferSize: 1Ki}}}",
            f"{ROOT}.logging.options.text.infoBufferSize: Forbidden: "
            "Feature LoggingAlphaOptions is disabled",
        ),
    ],
)
def test_what_does_not_hold_is_named(problems, text, problem):
    """One problem, and no other."""
    assert [problem] == problems(text)


@pytest.mark.parametrize(
    "text",
    [
        # Judged only in the mode that uses them.
        "nftables: {masqueradeBit: 99}",
        "ipvs: {tcpTimeout: -1s, excludeCIDRs: [x]}",
        "nftables: {syncPeriod: -1s}",
        "detectLocalMode: NodeCIDR\nclusterCIDR: nonsense",
        # Leading zeros are tolerated, host bits too.
        "bindAddress: 010.0.0.1\nnodePortAddresses: [010.1.2.3/8]\nclusterCIDR: 10.244.1.1/16",
        "oomScoreAdj: 1000\niptables: {masqueradeBit: 0}",
        "showHiddenMetricsForVersion: '1.35'",
        "featureGates: {LoggingAlphaOptions: true}\n"
        "logging: {options: {text: {splitStream: true}}}",
        "featureGates: {AllAlpha: true}\nlogging: {options: {text: {infoBufferSize: 1Ki}}}",
        "featureGates: {KubeletPSI: false, NFTablesProxyMode: true}",
        "portRange: anything",
        "mode: ipvs\nipvs: {scheduler: anything}",
        "logging: {format: json, verbosity: 2147483647}",
        "healthzBindAddress: '[::1]:1'\nmetricsBindAddress: ::1",
    ],
)
def test_what_holds_is_accepted(problems, text):
    """kube-proxy accepts it too."""
    assert [] == problems(text)


@pytest.mark.parametrize(
    ("flag", "path"),
    [
        ("--iptables-sync-period=0s", f"{ROOT}.SyncPeriod"),
        ("--iptables-min-sync-period=31s", f"{ROOT}.SyncPeriod"),
        ("--config-sync-period=0", f"{ROOT}.ConfigSyncPeriod"),
        ("--metrics-port=0", f"{ROOT}.MetricsBindAddress"),
        ("--log-flush-frequency=0s", f"{ROOT}.logging.flushFrequency"),
        ("--oom-score-adj=1001", f"{ROOT}.KubeProxyLinuxConfiguration.OOMScoreAdj"),
        ("--hostname-override= ", "--hostname-override"),
        ("--healthz-bind-address=1.2.3.4:0", f"{ROOT}.HealthzBindAddress"),
    ],
)
def test_flags_are_judged_like_the_file(problems, flag, path):
    """Zeros of flags are zeros; in a file they would mean defaults."""
    [problem] = problems("", flag)

    assert problem.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "flag",
    [
        "--bpf-takeover=maybe",
        "--bpf-forward-accept=yes",
        "--bpf-pins=always",
        "--bpf-pin-path=somewhere",
        "--bpf-max-slots=0",
        "--bpf-max-services=16777217",
    ],
)
def test_settings_of_our_own_are_judged_too(problems, flag):
    """Under the names of their flags."""
    [problem] = problems("", flag)

    assert problem.startswith(flag.split("=")[0] + ": ")


def test_problems_of_file_flags_and_our_own_come_together(problems):
    """One run tells all."""
    found = problems("mode: x\noomScoreAdj: 5000\n", "--bpf-xdp=y", "--logging-format=z")

    assert 4 == len(found)
