# SPDX-License-Identifier: Apache-2.0
"""Facts of the node that the proxy runs on: addresses, devices, namespaces."""
