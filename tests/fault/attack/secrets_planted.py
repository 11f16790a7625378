# SPDX-License-Identifier: Apache-2.0
"""A token in the kubeconfig, by which a page or a log that shows secrets is found out."""

from __future__ import annotations

from pathlib import Path

import yaml

SECRET = "kpbt-planted-2f8a1c"


def planted(kubeconfig: Path, directory: Path) -> Path:
    """The same client configuration, with a secret token."""
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"][0]["user"] = {"token": SECRET}
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
