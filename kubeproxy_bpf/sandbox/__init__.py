# SPDX-License-Identifier: Apache-2.0
"""A small cluster on one kernel: namespaces, cgroups, an embedded API server, real proxies."""
