# SPDX-License-Identifier: Apache-2.0
"""Looks after what others may have changed: maps, programs at hooks, pins, the hooks' own proof."""
