# SPDX-License-Identifier: Apache-2.0
"""The task: what it waits for, what it does, and when it gives up."""

from __future__ import annotations

from typing import Any, Sequence

import pytest
import structlog

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.host.iptables import NFT, Build
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.takeover import readiness
from kubeproxy_bpf.takeover import takeover as module
from kubeproxy_bpf.takeover.leftovers import Leftovers
from kubeproxy_bpf.takeover.meters import KINDS, TakeoverMeters
from kubeproxy_bpf.takeover.ruleset import Removal
from kubeproxy_bpf.takeover.takeover import Takeover

SERVED = DeviceReading(True, (("eth0", "ingress"),), xdp_modes={"eth0": "none"})
NOTHING = Leftovers([], [], 0, None, [], [])
SETS = NOTHING._replace(sets=["KUBE-LOOP-BACK"])


class Node:
    """A node that answers as it is told; each answer but the last is given once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found = [NOTHING]
        self.held: list[list[int]] = [[]]
        self.problems: list[list[str]] = [[]]
        self.removals = 0
        self.counts: list[dict[str, int]] = []
        monkeypatch.setattr(module.leftovers, "find", lambda: self._next(self.found))
        monkeypatch.setattr(module.leftovers, "remove", self._remove)
        monkeypatch.setattr(module, "held_by_others", lambda ports: self._next(self.held))
        for name in ("_LOOK_S", "_RETRY_S"):
            monkeypatch.setattr(module, name, 0)
        monkeypatch.setattr(readiness, "_LOOK_S", 0)

    @staticmethod
    def _next(answers: list[Any]) -> Any:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _remove(self, found: Leftovers, accepts_needed: bool, spared: Sequence[str]) -> list[str]:
        assert self.held == [[]], "a kube-proxy is alive"
        self.removals += 1
        answer: list[str] = self._next(self.problems)
        return answer

    async def run(self, mode: str = "clean", reading: DeviceReading = SERVED) -> list[str]:
        """Run to the end; returns the events of the log."""
        config = Config(hostname="n", takeover=mode)
        with structlog.testing.capture_logs() as logs:
            found = self.counts.append
            task = Takeover(config, lambda: reading, found=found, comes_back_s=0)  # type: ignore
            await task.run()
        return [each["event"] for each in logs]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


async def test_what_is_left_is_removed(node: Node) -> None:
    """And it is looked whether it is gone, at once and once more later."""
    node.found = [SETS, SETS, NOTHING]
    assert await node.run() == ["leftovers_found", "leftovers_removed"]
    assert node.removals == 1
    assert node.counts == [{"ipsets": 1}, {}, {}]


async def test_nothing_left_is_nothing_done(node: Node) -> None:
    """A node that never had a kube-proxy."""
    assert await node.run() == ["no_leftovers_found"]
    assert node.removals == 0


async def test_report_only_tells(node: Node) -> None:
    """Also while a kube-proxy is alive."""
    node.found, node.held = [SETS], [[10256]]
    assert await node.run("report") == ["leftovers_found"]
    assert node.removals == 0
    assert node.counts == [{"ipsets": 1}]


async def test_off_does_not_even_look(node: Node) -> None:
    """Not at the rules, and not for the packet programs."""
    assert await node.run("off", DeviceReading()) == []
    assert node.counts == []


async def test_a_kube_proxy_that_lives_is_waited_for_and_told_once(node: Node) -> None:
    """Its rules go when its ports are free, not before."""
    node.found, node.held = [SETS, SETS, SETS, NOTHING], [[10256], [10249, 10256], [10249], []]
    assert await node.run() == [
        "kube_proxy_alive",
        "leftovers_found",
        "leftovers_found",
        "leftovers_removed",
    ]


async def test_ports_that_cannot_be_looked_at_count_as_taken(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules that may be in use stay."""
    answers = [OSError(1, "no"), []]

    def refused(ports: object) -> list[int]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return list(answer)

    monkeypatch.setattr(module, "held_by_others", refused)
    told = await node.run()
    assert told[0] == "ports_not_looked_at" and "kube_proxy_alive" not in told


async def test_a_removal_that_fails_is_tried_again(node: Node) -> None:
    """Somebody may have changed a table between the look and the act, or hold the lock."""
    node.found, node.problems = [SETS, SETS, SETS, SETS, NOTHING], [["busy"], []]
    assert await node.run() == ["leftovers_found", "leftovers_stay", "leftovers_removed"]
    assert node.removals == 2


async def test_it_gives_up_in_the_end(node: Node) -> None:
    """With an error of what stays, and without ending the process."""
    node.found, node.problems = [SETS], [["no tool"]]
    events = await node.run()
    assert events[-1] == "takeover_given_up"
    assert node.removals == module._TRIES


def test_the_metric_knows_every_kind_that_is_counted(node: Node) -> None:
    """A kind that is gone is shown as 0, and none is lost."""
    meters = TakeoverMeters()
    removal = Removal("*nat", 1, 2, 3, (), False)
    tables = [(Build(Family.IPV4, NFT, "iptables-nft"), "nat", removal)]
    full = Leftovers(tables, [("ip", "kube-proxy")], 4, 5, ["KUBE-LOOP-BACK"], [])
    assert set(full.counts) == set(KINDS)
    meters.found(full.counts)
    meters.found({"ipsets": 2})
    (family,) = meters.families()
    assert family.name == "kubeproxy_bpf_takeover_leftovers"
    assert {labels[0]: value for labels, value in family.series.items()} == {
        **dict.fromkeys(KINDS, 0),
        "ipsets": 2,
    }


async def test_rules_that_come_back_are_told_and_not_fought(node: Node) -> None:
    """Somebody who listens nowhere writes them."""
    node.found = [SETS, SETS, NOTHING, SETS]
    assert (await node.run())[-1] == "leftovers_came_back"
    assert node.removals == 1
