"""Random histories of one truth, seen in pieces: late, doubled, in part, and across restarts.

Volumes are made, lost, adopted and deleted; lists and single answers come when they come;
sources are lost and come back; the truth changes while suspicions are being confirmed.
Whatever happens, a finding opens only on what the truth says at that moment.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reconciler import GONE_RULE, HOUR, ORPHAN, running

from truetally.errors import SourceUnavailable
from truetally.model import kubernetes as k8s
from truetally.model.findings import State
from truetally.model.observations import Gone, Lost, Seen, Trouble
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS
from worlds import PARENT, a_claim, a_dataset, a_volume, ref_of

VOLUMES = 2
number = st.integers(0, VOLUMES - 1)
LISTS = ["list nas", "list cluster", "list nas", "list cluster", "lose nas", "lose cluster", "restart"]
ACTION = st.one_of(
    st.tuples(st.sampled_from(["claim", "drop dataset", "drop claim", "drop volume"]), number),
    # A dataset or a volume alone that is told, and volumes or datasets of which nobody tells.
    st.tuples(st.sampled_from(["leave", "leave", "bind", "provision"]), number),
    st.tuples(st.sampled_from(["adopt", "restore"]), number),
    st.tuples(st.sampled_from(["tell", "tell twice", "tell late"]), number),
    st.tuples(st.sampled_from(LISTS), st.just(0)),
    st.tuples(st.just("while confirming"), number),
    st.tuples(st.just("wait"), st.sampled_from([60.0, HOUR])),
    st.tuples(st.just("wait"), st.just(HOUR)),
)


def uid(n: int) -> str:
    return f"3b4f5f0e-8f1a-4c8a-9d0e-00000000000{n}"


def name(n: int) -> str:
    return f"pvc-{uid(n)}"


def things(n: int):
    claim = a_claim(f"c{n}", uid(n), volume_name=name(n))
    volume = a_volume(name(n), claim=k8s.ClaimRef("default", f"c{n}", uid(n)))
    return {"dataset": a_dataset(f"{PARENT}/{name(n)}"), "claim": claim, "volume": volume}


class History:
    def __init__(self, it) -> None:
        self.it = it
        self.late: list[Seen | Gone] = []

    def source_of(self, what: str):
        return self.it.nas if what == "dataset" else self.it.cluster

    def change(self, verb: str, n: int) -> None:
        what = verb.removeprefix("drop ")
        value, source = things(n)[what], self.source_of(what)
        if verb.startswith("drop "):
            source.truth.pop(ref_of(value, source.name), None)
        else:
            source.truth[ref_of(value, source.name)] = value

    def observation(self, n: int, what: str) -> Seen | Gone:
        source = self.source_of(what)
        ref = ref_of(things(n)[what], source.name)
        at = self.it.clock.ticks()
        return Seen(ref, source.truth[ref], at) if ref in source.truth else Gone(ref, at)

    async def act(self, verb: str, value) -> None:
        match verb:
            case "leave":
                self.change("dataset", value)
                await self.it.reconciler.emit([self.observation(value, "dataset")])
            case "bind":
                self.change("volume", value)
                await self.it.reconciler.emit([self.observation(value, "volume")])
            case "adopt" | "restore":
                self.change("volume" if verb == "adopt" else "dataset", value)
            case "provision":
                for what in things(value):
                    self.change(what, value)
                    await self.it.reconciler.emit([self.observation(value, what)])
            case "tell":
                await self.it.reconciler.emit([self.observation(value, w) for w in things(value)])
            case "tell twice":
                told = [self.observation(value, w) for w in things(value)]
                await self.it.reconciler.emit([*told, *told])
            case "tell late":
                self.late += [self.observation(value, w) for w in things(value)]
            case "list nas":
                await self.it.nas.relist(TRUENAS_KINDS)
                await self.it.reconciler.emit(self.late)
                self.late = []
            case "list cluster":
                await self.it.cluster.relist(KUBERNETES_KINDS)
            case "lose nas" | "lose cluster":
                await self.lose(self.it.nas if verb == "lose nas" else self.it.cluster)
            case "while confirming":
                self.it.cluster.before_answer = lambda: self.change("volume", value)
            case "wait":
                await self.it.wait(value)
            case _:
                self.change(verb, value)
        await self.it.settle()
        self.check()

    async def lose(self, source) -> None:
        at = self.it.clock.ticks()
        lost = [Lost(source.name, kind, Trouble.UNREACHABLE, "away", at) for kind in source.kinds]
        await self.it.reconciler.emit(lost)

    def check(self) -> None:
        """Every finding that has opened since the last look is true."""
        for told in self.it.told:
            if told.before is not State.PENDING or told.finding.state is not State.OPEN:
                continue
            subject = told.finding.subject
            if told.finding.rule == ORPHAN:
                handle = subject.name.rpartition("/")[2]
                wanting = [
                    r for r in self.it.cluster.truth if handle.removeprefix("pvc-") in _uids(self.it, r)
                ]
                assert wanting == [], f"{subject} was accused although {wanting} want it"
            if told.finding.rule == GONE_RULE:
                dataset = f"{PARENT}/{subject.name}"
                assert all(r.name != dataset for r in self.it.nas.truth), (
                    f"{subject} was said to have lost its data"
                )
        self.it.told.clear()


def _uids(it, ref) -> str:
    value = it.cluster.truth[ref]
    return f"{ref.name} {getattr(value, 'uid', '')}"


async def play(actions) -> None:
    restored, truth = (), ({}, {})
    parts: list[list] = [[]]
    for action in actions:
        if action[0] == "restart":
            parts.append([])
        else:
            parts[-1].append(action)
    for part in parts:
        async with running(restored=restored) as it:
            it.nas.truth |= truth[0]
            it.cluster.truth |= truth[1]
            history = History(it)
            await it.read_all()
            history.check()
            for verb, value in part:
                with suppress(SourceUnavailable):
                    await history.act(verb, value)
            truth = (it.nas.truth, it.cluster.truth)
            restored = [f for f in it.reconciler.ledger.findings() if f.state is not State.PENDING]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.lists(ACTION, min_size=15, max_size=40))
def test_whatever_happens_a_finding_opens_only_on_what_is_true(actions):
    asyncio.run(asyncio.wait_for(play(actions), 60))


def test_a_lost_volume_is_found_in_the_end():
    """The histories would prove nothing if nothing ever opened."""
    opened = []

    async def once() -> None:
        async with running() as it:
            for what in ("dataset", "claim", "volume"):
                History(it).change(what, 1)
            await it.read_all()
            for what in ("drop claim", "drop volume"):
                History(it).change(what, 1)
            await it.cluster.relist(KUBERNETES_KINDS)
            await it.settle()
            await it.wait(HOUR + 1)
            opened.extend((t.finding.rule, t.finding.subject.name) for t in it.told)

    asyncio.run(once())
    assert opened == [(ORPHAN, f"{PARENT}/{name(1)}")]
