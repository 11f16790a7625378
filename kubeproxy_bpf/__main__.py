# SPDX-License-Identifier: Apache-2.0
"""``python -m kubeproxy_bpf`` is the kube-proxy command."""

import sys

from kubeproxy_bpf.cli import main

sys.exit(main())
