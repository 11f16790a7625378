# SPDX-License-Identifier: Apache-2.0
"""Importing the configuration loaders without the API models, in processes of their own."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


IMPORT = "import sys; from kubeproxy_bpf.api.plumbing import import_plumbing; "


def test_the_light_import_works_with_the_installed_library() -> None:
    """Fails when a new release of kubernetes_asyncio has another layout: then the process would
    still work, but at the cost of the normal import."""
    program = IMPORT + (
        "got = import_plumbing(); "
        "print(got.light, any(n.startswith('kubernetes_asyncio') for n in sys.modules), "
        "got.load_kube_config.__module__, got.load_incluster_config.__module__)"
    )
    config = "kubernetes_asyncio.config"
    assert run(program) == f"True False {config}.kube_config {config}.incluster_config"


def test_the_real_package_can_be_imported_afterwards() -> None:
    """The stand-ins leave nothing behind."""
    program = IMPORT + (
        "import_plumbing(); import kubernetes_asyncio.client as c; "
        "print(c.V1Service.__name__, c.ApiClient.__name__, import_plumbing().light)"
    )
    assert run(program) == "V1Service ApiClient False"


def test_another_layout_falls_back_to_the_normal_import() -> None:
    """If the loaders needed more of the client package, the whole package would be imported."""
    program = IMPORT + (
        "import kubeproxy_bpf.api.plumbing as p; real = p.ModuleType\n"
        "class Bare(real):\n"
        "    def __setattr__(self, name, value):\n"
        "        if name != 'Configuration': super().__setattr__(name, value)\n"
        "p.ModuleType = Bare\n"
        "got = import_plumbing()\n"
        "print(got.light, 'kubernetes_asyncio.client.models' in sys.modules)"
    )
    assert run(program) == "False True"
