# SPDX-License-Identifier: Apache-2.0
"""The state of the node beside the datapath: sysctls, netfilter's entries, the OOM score."""
