# SPDX-License-Identifier: Apache-2.0
"""Leaves that show state to the outside; they read it and never steer it."""
