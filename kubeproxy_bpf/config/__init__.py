# SPDX-License-Identifier: Apache-2.0
"""Flags and configuration file to one validated, immutable ``Config``."""
