# SPDX-License-Identifier: Apache-2.0
"""Build hook: a distribution carries the compiled BPF objects. All metadata is in setup.cfg."""

import os
import shutil
import subprocess

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError


class build_py_with_bpf(build_py):  # type: ignore[misc]
    """Bring ``kubeproxy_bpf/obj`` up to date before the package's files are collected."""

    def run(self) -> None:
        # The Makefile builds the objects itself and must be able to install without them.
        if not os.environ.get("KPB_SKIP_BPF"):
            self.build_objects()
        super().run()

    @staticmethod
    def build_objects() -> None:
        # bpftool lives where an ordinary user's PATH may not look.
        os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
        for tool in ("make", "clang", "llvm-strip", "bpftool"):
            if shutil.which(tool) is None:
                raise ExecError(
                    f"{tool} is needed to compile the BPF programs, and is not installed"
                )
        try:
            subprocess.run(["make", "-s", "-C", "bpf"], check=True)
        except subprocess.CalledProcessError as error:
            raise ExecError("the BPF programs did not compile; see the messages above") from error


setup(cmdclass={"build_py": build_py_with_bpf})
