# SPDX-License-Identifier: Apache-2.0
"""What is said of one object is short, however much is wrong with it."""

from __future__ import annotations

from kubeproxy_bpf.api.objects import ServicePort, SlicePort
from kubeproxy_bpf.excerpt import excerpt
from kubeproxy_bpf.model.desired import compile_service
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts
from kubeproxy_bpf.model.problems import MOST, Report
from tests.fix_objects import NODE, endpoint_slice, service, traits
from tests.golden.scenario import Scenario

PORTS = tuple(ServicePort(f"p{number}", "TCP", number, 0) for number in range(1, 101))


def test_the_first_problems_are_named_and_the_others_counted() -> None:
    """Eight and one more, which says how many follow."""
    report = Report("Service", "d", "x")
    for number in range(10_000):
        report.add(f"spec.ports[{number}]", "is wrong")
    assert len(report.problems) == MOST + 1
    assert report.problems[-1].message == f"is wrong (and {10_000 - MOST - 1} more)"


def test_a_problem_is_short() -> None:
    """A megabyte in a field is not repeated; the beginning and the end of the message are."""
    report = Report("Service", "d", "x")
    report.add("spec.externalIPs[0]", f"{'x' * 1_000_000!r} is no IP address; not served")
    (problem,) = report.problems
    assert len(problem.message) < 300
    assert problem.message.startswith("'xxx") and problem.message.endswith("; not served")
    assert excerpt("y" * 240) == "y" * 240


def test_lost_frontends_are_counted_too() -> None:
    """A Service that claims another one's hundred ports is named a few times."""
    scenario = Scenario()
    scenario.put(service(ports=PORTS))
    scenario.take()
    scenario.put(
        service(name="thief", cluster_ip="10.96.0.9", cluster_ips=("10.96.0.9",))._replace(
            created="2026", external_ips=("10.96.0.1",), ports=PORTS
        )
    )
    problems = scenario.take().problems
    assert len(problems) == MOST + 1 and problems[-1].message.endswith("(and 91 more)")
    assert not scenario.take().problems


def test_a_service_larger_than_the_maps_is_refused_before_it_is_expanded() -> None:
    """Ports times addresses, and ports times endpoints: one problem, nothing served."""
    config = ModelConfig(NODE, max_frontends=200, max_endpoints=200)
    wide = service(ports=PORTS, external_ips=("10.8.0.1", "10.8.0.2"))
    ports, (problem,) = compile_service(wide, (), NodeFacts(), config)
    assert not ports and "more than 200 ports times addresses" in problem.message
    deep = endpoint_slice(
        {f"10.0.0.{number}": traits() for number in range(1, 4)},
        ports=tuple(SlicePort(port.name, "TCP", 8080) for port in PORTS),
    )
    narrow = service(ports=PORTS)
    ports, (problem,) = compile_service(narrow, (deep,), NodeFacts(), config)
    assert not ports and "more than 200 ports times endpoints" in problem.message
    assert len(compile_service(narrow, (), NodeFacts(), config)[0]) == 100
