# SPDX-License-Identifier: Apache-2.0
"""What is looked for in the kernel's types is found there, and missed when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane.probe import Feature, probe_kernel, require
from kubeproxy_bpf.errors import UnsupportedKernel

# The types of a kernel hold names between zero bytes; nothing else of them is looked at.
_NAMES = {each.name for each in probe_kernel() if each.name.startswith(("BPF_", "NETDEV_", "bpf_"))}


def found(directory: Path, names: set[str]) -> dict[str, Feature]:
    """The features by name, in a kernel whose types name these."""
    types = directory / "vmlinux"
    types.write_bytes(b"\0" + b"\0".join(name.encode() for name in sorted(names)) + b"\0")
    return {each.name: each for each in probe_kernel(types) if each.name in _NAMES}


@pytest.mark.parametrize("missing", sorted(_NAMES))
def test_each_is_missed_alone(tmp_path: Path, missing: str) -> None:
    """One that is not there is the only one that is not; a necessary one is refused by name."""
    features = found(tmp_path, _NAMES - {missing})
    assert [missing] == [name for name, each in features.items() if not each.present]
    if features[missing].necessary:
        with pytest.raises(UnsupportedKernel, match=f"{missing} is not available: "):
            require(list(features.values()))
    else:
        require(list(features.values()))
        assert "; else " in features[missing].purpose


def test_types_of_connection_tracking_may_be_those_of_a_module(tmp_path: Path) -> None:
    """A kernel that has it as a module shows its functions in a file beside its own types."""
    names = {"bpf_skb_ct_lookup"}
    assert not found(tmp_path, _NAMES - names)["bpf_skb_ct_lookup"].present
    (tmp_path / "nf_conntrack").write_bytes(b"\0bpf_skb_ct_lookup\0")
    assert found(tmp_path, _NAMES - names)["bpf_skb_ct_lookup"].present
