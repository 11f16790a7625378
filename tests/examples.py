# SPDX-License-Identifier: Apache-2.0
"""How many inputs a property is tried with.

A test says how many in the bounded form, which is the same inputs in each run; the profile ``soak``
(``--long``) has a hundred times as many, and other ones each time.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_USUAL = 100


def bounded(examples: int) -> settings:
    """For ``@bounded(50)`` above ``@given(...)``."""
    soak = settings.get_current_profile_name() == "soak"
    factor = settings().max_examples // _USUAL if soak else 1
    return settings(
        max_examples=examples * factor,
        deadline=None,
        derandomize=not soak,
        report_multiple_bugs=False,
        # Large objects are the subject here, and a busy machine is no failure.
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
