# SPDX-License-Identifier: Apache-2.0
"""An eBPF kube-proxy for every cluster and every CNI plugin."""

__version__ = "0.1.0"
