# SPDX-License-Identifier: Apache-2.0
"""What --version prints, and when it prints nothing."""

from kubeproxy_bpf import __version__
from kubeproxy_bpf.config.version import KUBERNETES_VERSION, version_text


def test_scripts_read_the_version_of_kubernetes():
    """Ours stands behind it."""
    assert f"Kubernetes {KUBERNETES_VERSION} (kubeproxy-bpf {__version__})" == version_text("true")


def test_the_raw_version_is_a_struct_of_go():
    """With the fields that kube-proxy prints."""
    text = version_text("raw")

    assert text.startswith('version.Info{Major:"1", Minor:"36", GitVersion:"v1.36.')
    assert text.endswith('"}')


def test_other_values_let_the_process_go_on():
    """Not asked for, or a version to be reported."""
    assert "" == version_text("false") == version_text("v1.2.3")
