# SPDX-License-Identifier: Apache-2.0
"""Request bodies: JSON and YAML objects, and the kinds of patches."""

from __future__ import annotations

from typing import Any, Callable, Mapping

import msgspec
import yaml

from .events import from_core, to_core
from .jsonpatch import json_patch, merge_patch
from .resources import Resource
from .status import Json, StatusError
from .strategic import strategic_merge

_JSON = ("", "application/json")
_YAML = ("application/yaml", "application/x-yaml", "text/yaml")
APPLY = "application/apply-patch+yaml"


def decoded(body: bytes, media: str) -> Any:
    """The value of a body by its media type; protobuf and others are answered with 415."""
    if media in _JSON or media.endswith("+json"):
        return _json(body)
    if media in _YAML or media.endswith("+yaml"):
        return _yaml(body)
    raise StatusError(
        415,
        f"the body of the request was in an unknown format - accepted media types include: "
        f"application/json, application/yaml; got {media}",
    )


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise StatusError(400, f"the body is not JSON: {error}") from error


class Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: dates stay strings."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _yaml(body: bytes) -> Any:
    try:
        return yaml.load(body, Loader)  # a subclass of SafeLoader
    except yaml.YAMLError as error:
        raise StatusError(400, f"the body is not YAML: {error}") from error


def object_of(body: bytes, media: str, resource: Resource) -> Json:
    """The object of a create or update in the form in which it is stored."""
    obj = decoded(body, media)
    if not isinstance(obj, dict):
        raise StatusError(400, "the body holds no object")
    return to_core(obj) if resource.stored_as else obj


_PATCHES: Mapping[str, Callable[[Resource, Json, Any], Json]] = {
    "application/json-patch+json": lambda _, obj, patch: json_patch(obj, patch),
    "application/merge-patch+json": lambda _, obj, patch: merge_patch(obj, patch),
    "application/strategic-merge-patch+json": strategic_merge,
    APPLY: strategic_merge,
}


def patch_of(body: bytes, media: str, resource: Resource) -> Callable[[Json], Json]:
    """The change that a patch makes to a stored object."""
    if media not in _PATCHES:
        known = ", ".join(_PATCHES)
        raise StatusError(415, f"the body of the request was in an unknown format - known: {known}")
    patch = decoded(body, media)
    if not isinstance(patch, list if media == "application/json-patch+json" else dict):
        raise StatusError(400, "the patch has the wrong shape for its media type")
    apply = _PATCHES[media]
    if resource.stored_as:
        return lambda obj: to_core(apply(resource, from_core(obj), patch))
    return lambda obj: apply(resource, obj, patch)
