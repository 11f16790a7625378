# SPDX-License-Identifier: Apache-2.0
"""How the API server says no, as a status of an answer or as an ERROR event of a watch.

Pure. Raised by ``api.client`` and ``api.intake``, judged by the reflector.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from kubeproxy_bpf.api import wire
from kubeproxy_bpf.errors import ApiError

RETRY_AFTER_MAX_S = 86400
"""A server that asks for more is not taken at its word; the caller may limit further."""


class StatusError(ApiError):
    """The server answered with an error status, or with an ERROR event in a watch."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str = "",
        retry_after_s: float | None = None,
        version_too_large: bool = False,
    ) -> None:
        super().__init__(status, reason, message)
        self.retry_after_s = retry_after_s
        self.version_too_large = version_too_large
        """We asked for a resourceVersion that this server has not reached."""


def status_error(
    code: int, reason: str, status: wire.Status | None, retry_after_s: float | None = None
) -> StatusError:
    if status is None:
        return StatusError(code, reason, "", retry_after_s)
    details = status.details or wire.StatusDetails()
    if retry_after_s is None and details.retry_after_seconds:
        retry_after_s = _limited(details.retry_after_seconds)
    causes = details.causes or ()
    too_large = any(cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)
    return StatusError(
        status.code or code,
        status.reason or reason,
        status.message or "",
        retry_after_s,
        too_large,
    )


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait, from either form of the Retry-After header (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        if value.strip().isdecimal():
            return _limited(float(value))
        return _limited(parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, ArithmeticError, OSError):
        # A date may be outside of the calendar, of the platform's time, or of any number.
        return None


def _limited(seconds: int | float) -> float:
    """Limited before it becomes a float, which not every integer can."""
    return float(max(0, min(seconds, RETRY_AFTER_MAX_S)))
