# SPDX-License-Identifier: Apache-2.0
"""What the running proxies answer over HTTP and tell the cluster; a package shares one sandbox."""
