# SPDX-License-Identifier: Apache-2.0
"""The errors of the API: what goes wrong becomes a ``v1 Status`` with the reason clients branch on.

Raised by every layer of the embedded API server, turned into a response in ``http`` only.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from kubeproxy_bpf.errors import KubeProxyError

Json = dict[str, Any]

REASONS: Mapping[int, str] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class StatusError(KubeProxyError):
    """A request that is answered with a ``Status`` of status Failure."""

    def __init__(
        self, code: int, message: str, *, reason: str = "", details: Json | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.reason = reason or REASONS.get(code, "InternalError")
        self.details = details or {}

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"

    def body(self) -> Json:
        """The Status object as it goes over the wire."""
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            status["details"] = self.details
        return status


def _qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def _subject(plural: str, group: str, name: str) -> Json:
    details: Json = {"name": name, "kind": plural}
    if group:
        details["group"] = group
    return details


def not_found(plural: str, group: str, name: str) -> StatusError:
    return StatusError(
        404,
        f'{_qualified(plural, group)} "{name}" not found',
        details=_subject(plural, group, name),
    )


def already_exists(plural: str, group: str, name: str) -> StatusError:
    return StatusError(
        409,
        f'{_qualified(plural, group)} "{name}" already exists',
        reason="AlreadyExists",
        details=_subject(plural, group, name),
    )


def conflict(plural: str, group: str, name: str, why: str) -> StatusError:
    return StatusError(
        409,
        f'Operation cannot be fulfilled on {_qualified(plural, group)} "{name}": {why}',
        details=_subject(plural, group, name),
    )


STALE = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def invalid(kind: str, name: str, causes: Sequence[tuple[str, str]]) -> StatusError:
    """422 with one cause per (field, message)."""
    text = ", ".join(f"{field}: {message}" for field, message in causes)
    if len(causes) > 1:
        text = f"[{text}]"
    return StatusError(
        422,
        f'{kind} "{name}" is invalid: {text}',
        details={
            "name": name,
            "kind": kind,
            "causes": [
                {"reason": "FieldValueInvalid", "message": message, "field": field}
                for field, message in causes
            ],
        },
    )


def bad_option(field: str, message: str) -> StatusError:
    return invalid("ListOptions.meta.k8s.io", "", [(field, message)])


def expired(message: str) -> StatusError:
    return StatusError(410, message, reason="Expired")


def too_large_version(asked: int, current: int) -> StatusError:
    """The client has seen a resourceVersion that this server has not reached."""
    return StatusError(
        504,
        f"Too large resource version: {asked}, current: {current}",
        reason="Timeout",
        details={
            "retryAfterSeconds": 1,
            "causes": [
                {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            ],
        },
    )
