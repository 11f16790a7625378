# SPDX-License-Identifier: Apache-2.0
"""What holds for every history of changes, at every prefix of the writes, after every crash."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kubeproxy_bpf.dataplane.fake import Crash
from kubeproxy_bpf.dataplane.trace import POD, Verdict, trace
from kubeproxy_bpf.model.types import FrontendSpec, ServicePortId
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import (
    Backend,
    Frontend,
    FrontendKey,
    Record,
    Service,
    SourceRange,
    SourceRangeKey,
    VipFlags,
)
from kubeproxy_bpf.plan.writes import Plan
from tests.plan_objects import PACKETS, Bench, complete, desired, prefixes
from tests.property.plan.readers import (
    ADDRESSES,
    FRONTENDS,
    PORTS,
    RANGES,
    Readers,
    World,
    assert_programmed,
    key_of,
    led_to,
    step_from,
    worlds,
)

FEW = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)

histories = st.lists(worlds(), min_size=1, max_size=5)


def play(bench: Bench, history: list[World]) -> World | None:
    """Bring a bench to the end of a history, with a grace period after each plan."""
    old: World | None = None
    for world in history:
        bench.sync(step_from(old, world))
        old = world
    return old


def execute_watched(bench: Bench, plan: Plan, readers: Readers) -> None:
    """Execute a plan write by write, with readers that look after each."""
    for step in plan.steps():
        assert bench.fake.do(step) is None
        readers.look()
        if step.grace:
            readers.grace()


@FEW
@given(histories)
def test_every_history_ends_in_what_is_desired(history: list[World]) -> None:
    """Only the end counts, nothing is left over, and the same changes again write nothing."""
    bench = Bench(PACKETS)
    for i, world in enumerate(history):
        bench.sync(step_from(history[i - 1] if i else None, world))

        assert_programmed(bench.fake, world)
        assert bench.planner.plan(complete(world)).empty
        assert bench.planner.plan(NOTHING).empty


@FEW
@given(histories)
def test_no_reader_ever_sees_a_half_state(history: list[World]) -> None:
    """At every prefix, and for readers that stay between reads while two plans are executed."""
    bench = Bench(PACKETS)
    old: World | None = None
    for first, second in zip(history[::2], [*history[1::2], *history[-1:]]):
        readers = Readers(bench.fake)
        plans = []
        for world in (first, second):
            readers.expect(old, world)
            plan = bench.planner.plan(step_from(old, world))
            execute_watched(bench, plan, readers)
            plans.append(plan)
            old = world
        for plan in plans:
            bench.rest(plan)


@FEW
@given(histories, worlds())
def test_a_crash_at_any_write_is_repaired_without_a_gap(history: list[World], last: World) -> None:
    """A restart after any prefix ends in the desired state and never leads anybody astray."""
    writes = _writes_of_last(history, last)
    for number in range(writes):
        bench = Bench(PACKETS)
        old = play(bench, history)
        bench.fake.crash_at = bench.fake.writes + number
        try:
            bench.plan(step_from(old, last))
        except Crash:
            pass
        bench.fake.crash_at = None
        bench.restart()
        readers = Readers(bench.fake)
        readers.expect(old, last)
        for before in (old or {}).values():  # who has the cluster IP counts as the same Service
            for after in last.values():
                if set(before.frontends) & set(after.frontends) & set(FRONTENDS[:4]):
                    readers.expect_heir(before, after)
        plan = bench.planner.plan(complete(last))
        execute_watched(bench, plan, readers)
        bench.rest(plan)

        assert_programmed(bench.fake, last)
        assert bench.planner.plan(complete(last)).empty


def _writes_of_last(history: list[World], last: World) -> int:
    bench = Bench(PACKETS)
    old = play(bench, history)
    return len(list(bench.planner.plan(step_from(old, last)).steps()))


@FEW
@given(histories, worlds())
def test_a_refused_write_is_healed_by_one_clean_sync(history: list[World], last: World) -> None:
    """Whichever write of a hash map fails, the next plan repeats it and all is as desired."""
    for number in range(_writes_of_last(history, last)):
        bench = Bench(PACKETS)
        old = play(bench, history)
        bench.fake.fail_at = bench.fake.writes + number
        plan = bench.plan(step_from(old, last))
        bench.planner.release(plan.token)

        bench.sync(NOTHING)

        assert_programmed(bench.fake, last)


@FEW
@given(histories)
def test_ids_are_stable_over_a_restart(history: list[World]) -> None:
    """A restart and the same complete changes write nothing at all."""
    bench = Bench(PACKETS)
    old = play(bench, history)
    bench.restart()

    assert bench.planner.plan(complete(old or {})).empty


small = st.integers(0, 40)
damages = st.lists(
    st.one_of(
        st.tuples(st.just("services"), st.integers(1, 31), st.builds(Service, small, small)),
        st.tuples(
            st.just("records"),
            st.integers(1, 40),
            st.builds(Record, st.integers(0, 300), *[small] * 4, small, st.integers(0, 7), small),
        ),
        st.tuples(st.just("slots"), st.integers(0, 255), small),
        st.tuples(
            st.just("backends"),
            st.integers(1, 40),
            st.builds(
                Backend, st.just(ADDRESSES[0].encode().rjust(16)), small, small, small, small
            ),
        ),
        st.tuples(
            st.just("frontends"),
            st.sampled_from([FrontendKey(*key_of(spec)) for spec in FRONTENDS]),
            st.builds(Frontend, st.integers(0, 99), st.integers(0, 9), st.integers(0, 3)),
        ),
        st.tuples(
            st.just("source_ranges"),
            st.builds(
                lambda service, prefix: SourceRangeKey(32 + prefix.bits, service, prefix.address),
                small,
                st.sampled_from(prefixes(*RANGES)),
            ),
            st.builds(SourceRange, st.integers(0, 1)),
        ),
        st.tuples(
            st.just("vips"),
            st.sampled_from([spec.address for spec in FRONTENDS[:8]]),
            st.integers(0, 255).map(lambda flags: flags & ~VipFlags.CANARY),
        ),
        st.tuples(st.just("node_ports"), st.integers(0, 1023), st.integers(0, 2**64 - 1)),
    ),
    max_size=12,
)


@FEW
@given(histories, damages, worlds(), st.sampled_from([9, 64]))
def test_any_damage_is_repaired(
    history: list[World], damage: list[Any], last: World, vips: int
) -> None:
    """Whatever the maps hold at start, the first complete changes and their graces put it right."""
    bench = Bench(PACKETS._replace(vips=vips))
    play(bench, history)
    for name, key, value in damage:
        getattr(bench.fake, name)[key] = value
    bench.restart()

    bench.sync(complete(last))

    assert_programmed(bench.fake, last)


@FEW
@given(histories, st.data())
def test_what_does_not_fit_heals_when_room_appears(history: list[World], data: Any) -> None:
    """With maps of any size nobody is disturbed, and an emptied cluster fits again."""
    maps = ("services", "slots", "backends", "vips", "source_ranges")
    sizes = {name: data.draw(st.integers(2, 7), name) for name in maps}
    bench = Bench(PACKETS._replace(**sizes))
    old: World | None = None
    for world in history:
        bench.sync(step_from(old, world))
        old = world
        for port, want in world.items():
            for spec in want.frontends:
                assert_old_or_nothing(bench, port, spec)
    bench.sync(complete({}))
    tiny = {PORTS[0]: desired([FRONTENDS[0]], [ADDRESSES[0]])}
    bench.sync(complete(tiny))

    assert_programmed(bench.fake, tiny)


def assert_old_or_nothing(bench: Bench, port: ServicePortId, spec: FrontendSpec) -> None:
    """A frontend leads somewhere whole, or nowhere while its service port waits for room."""
    frontend = bench.fake.frontends.get(FrontendKey(*key_of(spec)))
    if frontend is None:
        assert port in bench.planner.waiting
    else:
        assert led_to(bench.fake, frontend.service) is not None


def test_the_tracer_agrees_with_the_maps() -> None:
    """The helper that these tests use sees what the tracer sees."""
    bench = Bench(PACKETS)
    world = {PORTS[0]: desired([FRONTENDS[0]], ADDRESSES[:2])}
    bench.sync(complete(world))
    verdict: Verdict = trace(bench.fake, POD, *key_of(FRONTENDS[0]))

    assert set(ADDRESSES[:2]) == {address for address, _ in verdict.backends}
