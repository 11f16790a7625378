# SPDX-License-Identifier: Apache-2.0
"""Who owns a contested frontend."""

from itertools import permutations

import pytest

from kubeproxy_bpf.model.claims import Claims, claim_of
from kubeproxy_bpf.model.types import FrontendSpec, ServicePortId
from kubeproxy_bpf.plan.records import FrontendKind
from tests.fix_objects import ip

KEY = (ip("203.0.113.7"), 80, 6)
OLD, YOUNG = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"


def port(name: str, source: str = "service", namespace: str = "default") -> ServicePortId:
    return ServicePortId(source, namespace, name, "http", 6, 4)


def claim(who: ServicePortId, created: str = OLD, kind: FrontendKind = FrontendKind.EXTERNAL_IP):
    return claim_of(FrontendSpec(*KEY, kind, 0), created, who)


@pytest.mark.parametrize(
    "winner, loser",
    [
        (claim(port("b"), YOUNG, FrontendKind.CLUSTER_IP), claim(port("a"), OLD)),
        (claim(port("b"), YOUNG, FrontendKind.LOAD_BALANCER), claim(port("a"), OLD)),
        (
            claim(port("b"), YOUNG, FrontendKind.NODE_PORT),
            claim(port("a", "pod"), OLD, FrontendKind.HOST_PORT),
        ),
        (claim(port("b"), OLD), claim(port("a"), YOUNG)),
        (claim(port("b", namespace="a")), claim(port("a", namespace="b"))),
        (claim(port("a")), claim(port("b"))),
    ],
)
def test_kind_then_age_then_name_decide(winner, loser) -> None:
    """The rank of the kind goes first, then the older object, then the lesser name."""
    for order in permutations((winner, loser)):
        claims = Claims()
        for key, entry in order:
            claims.add(key, entry)
        assert claims.owns(KEY, winner[1].claimant)
        assert not claims.owns(KEY, loser[1].claimant)


def test_changes_of_owner_are_reported() -> None:
    """Whoever loses or gains a frontend has to be looked at again; who waits in vain does not."""
    claims = Claims()
    a, b, c = (claim(port(name)) for name in "abc")
    assert claims.add(*b) is None
    assert claims.add(*c) is None
    assert claims.add(*a) == port("b")
    assert claims.remove(*c) is None
    assert claims.remove(*a) == port("b")
    assert claims.remove(*b) is None


def test_the_least_of_those_that_wait_is_next() -> None:
    """However long it has waited."""
    claims = Claims()
    for name in "acb":
        claims.add(*claim(port(name)))
    assert claims.remove(*claim(port("a"))) == port("b")


def test_waiting_claims_are_problems_that_name_the_owner() -> None:
    """One problem per claim that waits, and none once it has its turn."""
    claims = Claims()
    claims.add(*claim(port("web")))
    claims.add(*claim(port("agent", "pod"), kind=FrontendKind.HOST_PORT))
    (problem,) = claims.problems()
    assert problem[:4] == ("Pod", "default", "agent", "spec.containers.ports.hostPort")
    assert problem.message == "203.0.113.7 port 80/TCP is taken by service default/web; not served"
    assert claims.problem_of(KEY, port("agent", "pod")) == problem
    claims.remove(*claim(port("web")))
    assert not list(claims.problems())
