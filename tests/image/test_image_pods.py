# SPDX-License-Identifier: Apache-2.0
"""The pods of tests/e2e/packaging once more, in the image instead of on this machine's programs.

The tests are the same functions; ``rootfs`` is what differs.
"""

from __future__ import annotations

import pytest

from tests.e2e.packaging.test_cleanup_manifest import *  # noqa: F401,F403
from tests.e2e.packaging.test_install_manifest import *  # noqa: F401,F403
from tests.e2e.packaging.test_stock_daemonset import *  # noqa: F401,F403

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]
