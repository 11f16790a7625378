# SPDX-License-Identifier: Apache-2.0
"""ServiceCIDR objects on the wire."""

import json

import msgspec
import pytest

from kubeproxy_bpf.api.decode import DecodeError, Kind, decoder_of
from kubeproxy_bpf.api.objects import ObjectKey, ServiceCIDR


def decode(**document):
    document = {"metadata": {"name": "kubernetes", "resourceVersion": "7"}, **document}
    return decoder_of(Kind.SERVICE_CIDR).decode(msgspec.Raw(json.dumps(document).encode()))


def test_both_families_are_kept_in_their_order():
    """The object is as the API server says it, its texts are judged by who uses them."""
    decoded = decode(spec={"cidrs": ["10.96.0.0/16", "fd00::/112"]}, status={"conditions": []})

    assert ServiceCIDR("kubernetes", ("10.96.0.0/16", "fd00::/112")) == decoded.object
    assert (ObjectKey("", "kubernetes"), "7") == (decoded.key, decoded.version)


@pytest.mark.parametrize("document", [{}, {"spec": None}, {"spec": {}}, {"spec": {"cidrs": None}}])
def test_what_is_absent_is_empty(document):
    """Every field may be absent or null."""
    assert () == decode(**document).object.cidrs


def test_a_wrong_type_names_its_field():
    """One bad object disturbs no other, and says what is wrong with it."""
    with pytest.raises(DecodeError) as caught:
        decode(spec={"cidrs": [7]})

    assert "$.spec.cidrs[0]" == caught.value.field
