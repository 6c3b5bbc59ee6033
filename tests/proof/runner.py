"""Plays random histories, and holds every finding of truetally against the truth.

The reconciler is the real one, driven by hand: nothing in it waits for anything but its
queue and its sources, so its coroutines are stepped without an event loop, and the
world goes on between the readings of a confirmation.

    python -m proof.runner --histories 2000          seeds 0 to 1999 on all cores
    python -m proof.runner --seed 17                 one history, told step by step
    python -m proof.runner --mutants                 each condition left out must be noticed
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import msgspec
import structlog

from proof import deeds
from proof.model import GRACE, Truth, settings_of
from proof.observation import Source
from truetally.findings import catalogue, orphans
from truetally.findings.rule import Order, Reread, Rule
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import State, Transition
from truetally.model.memories import Memory, MemoryKind
from truetally.model.observations import Observation
from truetally.model.refs import TRUENAS_KINDS, Kind, Ref
from truetally.reconciler import Reconciler

ORPHAN, LOST = orphans.DATASET_WITHOUT_VOLUME.id, orphans.VOLUME_WITHOUT_DATASET.id
SNAPSHOT = "snapshot-without-content"
# How long after the grace an orphan may still be unknown: the interval in which everything is judged anew.
INTERVAL = 600.0
_USE_IS_VALID = 900.0
# The rules on Kubernetes' objects whose truth is known here.
_OF_KUBERNETES = frozenset(
    {
        LOST,
        "volume-share-missing",
        "claim-lost",
        "content-without-snapshot",
        "content-unreferenced",
        "attachment-stale",
    }
)
_WAITS = (1.0, 30.0, 300.0, 900.0, 1800.0, GRACE, GRACE + 100.0)
_DEEDS, _WEIGHTS = zip(*deeds.WEIGHTED, strict=True)


@dataclass
class Result:
    """What became of one history: false accusations, and the orphans that were to be found."""

    seed: int
    false: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    true: int = 0
    expected: int = 0
    opened: Counter[str] = field(default_factory=Counter)
    misjudged: list[str] = field(default_factory=list)
    unlabelled: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)


class History:
    """One history of the world, with truetally watching."""

    def __init__(self, rng: Random, seed: int = -1, say: Callable[[str], None] | None = None) -> None:
        self.truth: Truth = deeds.a_world(rng)
        self.result = Result(seed)
        self._rng, self._say = rng, say
        self._memories: dict[tuple[MemoryKind, str], Memory] = {}
        self._round: Coroutine[Any, Any, None] | None = None
        self.settings = settings_of(self.truth)
        self.sources = [Source(n, self.truth, self._emit) for n in (*self.truth.clusters, *self.truth.nas)]
        self._start(())

    # The clock and the tasks of the reconciler

    def now(self) -> datetime:
        return self.truth.now()

    def ticks(self) -> float:
        return self.truth.ticks

    def create_task(self, coroutine: Coroutine[Any, Any, None], name: str) -> Coroutine[Any, Any, None]:
        """Stands for the reconciler's task group: the coroutine goes on when it is stepped."""
        self._round = coroutine
        for source in self.sources:
            source.asked = False
        return coroutine

    def _start(self, restored: Sequence[Any]) -> None:
        self.reconciler = Reconciler(self.settings, self, self._record, restored)  # type: ignore[arg-type]
        self.reconciler.graph.recall(self._memories.values())
        self.reconciler._tasks = self  # type: ignore[assignment]
        clusters = {s.name: s for s in self.sources if not s.is_nas}
        self.reconciler.watch(clusters, {s.name: s for s in self.sources if s.is_nas})

    def _emit(self, observations: Sequence[Observation]) -> None:
        if observations:
            self.reconciler._queue.put_nowait(observations)

    def work(self) -> None:
        queue = self.reconciler._queue
        while not queue.empty():
            _through(self.reconciler._work(queue.get_nowait()))
        for memory in self.reconciler.graph.fresh_memories():
            self._memories[memory.kind, memory.name] = memory

    def _wake(self) -> None:
        _through(self.reconciler._work(None))

    def step_round(self) -> None:
        if self._round is None:
            return
        try:
            self._round.send(None)
        except StopIteration:
            self._round = None
        self.work()

    def _finish_round(self) -> None:
        while self._round is not None:
            self.step_round()

    async def _record(self, transitions: Sequence[Transition]) -> None:
        for transition in transitions:
            if transition.finding.state is State.OPEN and transition.before is State.PENDING:
                self._check(transition)

    # What is done

    def play(self) -> None:
        """Some volumes, the first lists, random acts, and the quiet after them."""
        for _ in range(self._rng.randrange(4)):
            self.do(deeds.provision)
        self.observe("list all")
        self.work()
        for n in range(STEPS):
            # Each act has its own chance, so that what truetally asks for does not change all that follows.
            self._rng.seed(self.result.seed * STEPS + n)
            self.act()
        self.settle()

    def restart(self) -> None:
        """truetally is stopped at any moment; its findings and memories are in the history."""
        if self._round is not None:
            self._round.close()
            self._round = None
        findings = [f for f in self.reconciler.ledger.findings() if f.state is not State.PENDING]
        self.truth.provisioners_told.clear()
        self._start(findings)
        for source in self.sources:
            source._coming = []

    def pass_time(self, seconds: float) -> None:
        """Time goes by, and the reconciler wakes when one of its suspicions is mature."""
        until = self.truth.ticks + seconds
        while (due := self.reconciler.ledger.next_at()) is not None and self._round is None and due <= until:
            self.truth.ticks = max(self.truth.ticks, due)
            self._wake()
            if self._round is not None:
                break
            if (again := self.reconciler.ledger.next_at()) is not None and again <= self.truth.ticks:
                break
        self.truth.ticks = max(self.truth.ticks, until) if self._round is None else self.truth.ticks + 0.1
        self._wake()

    def do(self, deed: deeds.Deed) -> None:
        """One deed, unless a confirmation has read too much already to hear of it."""
        nas_read = any(s.asked for s in self.sources if s.is_nas)
        clusters_read = any(s.asked for s in self.sources if not s.is_nas)
        if self._round is not None and nas_read and (clusters_read or deed in deeds.ON_NAS_ALONE):
            return
        deed(self.truth)
        changed, self.truth.changed = self.truth.changed, []
        for source in self.sources:
            source.hear(changed)

    def observe(self, what: str) -> None:
        """What reality does to observation."""
        rng, source = self._rng, self._rng.choice(self.sources)
        match what:
            case "deliver":
                source.deliver(everything=rng.random() < 0.5)
            case "list" if source.up:
                some = rng.random() < 0.3
                source.list(rng.sample(sorted(source.kinds), 5) if some else source.kinds)
            case "list all":
                for each in self.sources:
                    if each.up:
                        each.list(each.kinds)
            case "break off" if source.up:
                source.list(source.kinds, breaks_off=True)
            case "lie" if source.up:
                source.list([rng.choice(sorted(source.kinds))], lies_to=self.reconciler.graph)
            case "lose":
                if source.up:
                    source.lose()
                else:
                    source.up = True
                    source.list(source.kinds)
            case "deny":
                if source.denied:
                    source.denied.clear()
                    source.list(source.kinds)
                else:
                    source.deny(rng.choice(sorted(source.kinds)))
            case "restart":
                self.restart()
            case "bad start":
                # After a restart nothing is known; what is denied or breaks off then stays unknown.
                self.restart()
                for each in self.sources:
                    if each.up and each.is_nas:
                        each.denied.add(rng.choice(_HIDDEN))
                    if each.up:
                        each.list(each.kinds, breaks_off=rng.random() < 0.5)

    def act(self) -> None:
        """One random act; while a confirmation is under way it is likely to go on."""
        rng = self._rng
        self.truth.ticks += 0.1
        what = rng.choices(ACTS, _ACT_WEIGHTS)[0]
        if what == "deed":
            deed = rng.choices(_DEEDS, _WEIGHTS)[0]
            self.result.deeds[deed.__name__] += 1
            self._tell(f"deed {deed.__name__}")
            self.do(deed)
        elif what == "wait":
            seconds = rng.choice(_WAITS)
            self._tell(f"wait {seconds}")
            self.pass_time(seconds)
        else:
            self._tell(what)
            self.observe(what)
        self.work()
        if self._round is not None and rng.random() < 0.7:
            self.step_round()

    def _tell(self, what: str) -> None:
        if self._say is not None:
            self._say(f"{self.truth.ticks - 100_000:9.1f}  {what}")

    # Against the truth

    def _check(self, transition: Transition) -> None:
        finding = transition.finding
        rule, subject = catalogue.BY_ID[finding.rule], finding.subject
        self.result.opened[rule.id] += 1
        self._tell(f"OPEN {rule.id} on {subject}")
        why = self._innocent(rule, subject)
        if not why:
            self.result.true += rule.reread is not None
        elif rule.reread is not None:
            self.result.false.append(
                f"{rule.id} on {subject}: {why}; {finding.facts.get('because', finding.summary)}"
            )
        else:
            self.result.misjudged.append(f"{rule.id} on {subject}: {why}")

    def _innocent(self, rule: Rule, subject: Ref) -> str:
        """Why a finding on this subject is false; empty if it is not."""
        truth = self.truth
        if subject.kind is Kind.SOURCE or not truth.exists(subject):
            return ""
        if rule.reread is None:
            return self._wrongly_noted(rule, subject)
        if subject.kind in TRUENAS_KINDS:
            return "" if truth.may_be_kept(subject) else truth.why_wanted(subject)
        if rule.id not in _OF_KUBERNETES:
            self.result.unlabelled[rule.id] += 1
            return ""
        return truth.why_whole(subject, rule.id)

    def _wrongly_noted(self, rule: Rule, subject: Ref) -> str:
        """What a note says of a dataset has to be so, but may rest on what has not been told yet."""
        if subject.kind is not Kind.DATASET:
            return ""
        why = self.truth.why_wanted(subject)
        return why if why.startswith(("wanted by", "exempt")) else ""

    def settle(self) -> None:
        """The world is quiet: every source can be read, and what was found is held against the truth."""
        self._finish_round()
        for source in self.sources:
            source.up = True
            source.denied.clear()
            source.tells_all = True
        self._until_all_is_told()
        self._check_open("after all was told")
        expected = self._to_be_found()
        for seconds in (INTERVAL, GRACE + 1.0, 1.0, 30.0):
            self._wait_quietly(seconds)
        self._check_open("after the quiet")
        self.result.expected = len(expected)
        for rule, ref in expected:
            known = self.reconciler.ledger.finding(rule, ref)
            if known is None or known.state is not State.OPEN:
                note = known.note if known is not None else self._why_clear(rule, ref)
                self.result.missed.append(f"{rule} on {ref}: {note}")

    def _why_clear(self, rule: str, ref: Ref) -> str:
        judgement = catalogue.BY_ID[rule].judge(ref, self.reconciler.world())
        return getattr(judgement, "reason", None) or "suspected"

    def _until_all_is_told(self) -> None:
        """Lists come until none is doubted, and what was read of a use that has ended is forgotten."""
        for seconds in (1.0, _USE_IS_VALID + 1.0, 1.0, GRACE + 1.0, 1.0):
            for source in self.sources:
                source.deliver(everything=True)
                source.list(source.kinds)
            self.work()
            self._wait_quietly(seconds)

    def _wait_quietly(self, seconds: float) -> None:
        """Nothing happens but the confirmations that fall due."""
        until = self.truth.ticks + seconds
        while self.truth.ticks < until:
            self.pass_time(until - self.truth.ticks)
            self._finish_round()

    def _check_open(self, when: str) -> None:
        for finding in self.reconciler.ledger.findings():
            rule = catalogue.BY_ID[finding.rule]
            why = self._innocent(rule, finding.subject) if finding.state is State.OPEN else ""
            # What only a verification reads may have begun since.
            if why and not why.startswith(("in use:", "wanted by Snapshot")):
                found = self.result.false if rule.reread is not None else self.result.misjudged
                found.append(f"{when}: {rule.id} on {finding.subject}: {why}")

    def _to_be_found(self) -> list[tuple[str, Ref]]:
        truth = self.truth
        found = [
            (ORPHAN, v.ref) for v in truth.orphans() if truth.provable(v) and not truth.may_be_kept(v.ref)
        ]
        found += [
            (SNAPSHOT, s)
            for s, thing in truth.things.items()
            if s.kind is Kind.SNAPSHOT
            and truth.exists(s)
            and "@snapshot-" in s.name
            and not truth.why_wanted(s)
            if not truth.may_be_kept(s)
            if any(v.ref.name == s.name.partition("@")[0] and truth.provable(v) for v in truth.volumes)
        ]
        return [*found, *((LOST, ref) for ref in self._without_dataset())]

    def _without_dataset(self) -> Iterator[Ref]:
        truth = self.truth
        names = {
            name
            for nas in truth.nas
            for value in truth.objects[nas].values()
            if isinstance(value, truenas.Dataset)
            for name in (value.leaf, *(p.value for p in value.user_properties.values()))
        }
        for volume in truth.volumes:
            value = truth.get(volume.pv) if volume.pv is not None else None
            if volume.pv is None or not isinstance(value, k8s.PersistentVolume) or value.phase != "Bound":
                continue
            mine = volume.deployment
            gone = not truth.exists(volume.ref) and not {volume.name, volume.leaf} & names
            if gone and mine.watched and mine.configured and mine.nas not in truth.exported:
                yield volume.pv


def _through(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs to its end what waits for nothing; a breath for others is no waiting."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration:
            return


ACTS = (
    "deed",
    "deliver",
    "list",
    "list all",
    "wait",
    "break off",
    "lie",
    "lose",
    "deny",
    "restart",
    "bad start",
)
_ACT_WEIGHTS = (60, 12, 5, 3, 14, 1, 1, 2, 2, 1, 2)
# Kinds of a NAS by which something may be wanted that its name does not tell.
_HIDDEN = (Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.SMB_SHARE, Kind.ISCSI_TARGET_EXTENT, Kind.SNAPSHOT_TASK)
STEPS = 60


def play(seed: int, say: Callable[[str], None] | None = None) -> Result:
    """One history from its seed."""
    history = History(Random(seed), seed, say)
    try:
        history.play()
    except Exception as error:
        if say is not None:
            raise
        history.result.false.append(f"the reconciler ended: {error!r}")
    return history.result


@contextmanager
def silent() -> Iterator[None]:
    """Without the reconciler's log, which would be most of the work."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def in_the_catalogue(rule: Rule) -> Iterator[None]:
    """Another rule in the place of the one with its id."""
    before = catalogue.RULES, catalogue.BY_ID, catalogue._BY_KIND
    rules = tuple(rule if r.id == rule.id else r for r in catalogue.RULES)
    catalogue.RULES = rules
    catalogue.BY_ID = {r.id: r for r in rules}
    catalogue._BY_KIND = {kind: tuple(r for r in rules if r.subject is kind) for kind in Kind}
    try:
        yield
    finally:
        catalogue.RULES, catalogue.BY_ID, catalogue._BY_KIND = before


def mutants() -> dict[str, Rule]:
    """The rule of orphans with each of its conditions left out, by the condition's number and name."""
    whole = orphans.DATASET_WITHOUT_VOLUME
    # What a list that could not be read leaves out is asked for again before a suspicion is believed.
    unread = msgspec.structs.replace(
        whole,
        needs=frozenset(),
        reread=lambda ref, _world: Reread(Order.STORAGE_FIRST, nas=ref.source, objects=frozenset({ref})),
        confirmed=lambda *_: "",
    )
    found = {"1 complete lists": unread}
    numbers = (2, 3, 4, 5, 6, 7, 8, 9, 10, 10)
    for number, left_out in zip(numbers, orphans.CONDITIONS, strict=True):
        asked = tuple(each for each in orphans.CONDITIONS if each is not left_out)
        name = f"{number} {left_out.__name__.strip('_').replace('_', ' ')}"
        found[name] = msgspec.structs.replace(whole, judge=_judging(asked))
    return found


def _judging(asked: tuple[orphans.ConditionOf, ...]) -> Callable[..., Any]:
    return lambda ref, world: orphans.judge_dataset(orphans.Verdict.ORPHAN, ref, world, asked)


def first_false(rule: Rule, seeds: Sequence[int]) -> Result | None:
    """The first history in which a weakened rule accuses an innocent."""
    with silent(), in_the_catalogue(rule):
        return next((r for r in map(play, seeds) if any(f.startswith(rule.id) for f in r.false)), None)


def play_all(seeds: Sequence[int]) -> list[Result]:
    with silent():
        return [play(seed) for seed in seeds]


def _chunk(seeds: range) -> list[Result]:
    return play_all(seeds)


def _mutant(name: str, most: int) -> tuple[str, int | None, str]:
    found = first_false(mutants()[name], range(most))
    return name, found.seed if found else None, found.false[0] if found else ""


def _prove(histories: int, first: int) -> int:
    began = time.perf_counter()
    total, failing = Result(-1), []
    chunks = [range(n, min(n + 50, first + histories)) for n in range(first, first + histories, 50)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for results in pool.map(_chunk, chunks):
            for each in results:
                total.true += each.true
                total.expected += each.expected
                total.opened += each.opened
                total.unlabelled += each.unlabelled
                total.deeds += each.deeds
                total.misjudged += [f"seed {each.seed}: {m}" for m in each.misjudged]
                if each.false or each.missed:
                    failing.append(each)
    seconds = time.perf_counter() - began
    for each in failing[:40]:
        for what, found in (("FALSE", each.false), ("MISSED", each.missed)):
            for line in found:
                print(f"seed {each.seed}: {what} {line}")
    for line in total.misjudged[:10]:
        print(f"{line} (a note, no accusation)")
    false, missed = sum(len(r.false) for r in failing), sum(len(r.missed) for r in failing)
    accused = total.true + false
    print("opened:", ", ".join(f"{rule} {n}" for rule, n in total.opened.most_common()))
    if total.unlabelled:
        print("not held against the truth:", dict(total.unlabelled))
    if failing:
        print("failing seeds:", " ".join(str(r.seed) for r in failing[:40]))
        print("replay one: python -m proof.runner --seed SEED   (PYTHONPATH=daemon:tests)")
    print(f"precision          {_percent(total.true, accused)} ({total.true} of {accused} accusations)")
    found = total.expected - missed
    share = _percent(found, total.expected)
    print(f"recall             {share} ({found} of {total.expected} orphans in time)")
    print(f"false accusations  {false}")
    print(f"histories          {histories}")
    print(f"seconds            {seconds:.1f} ({histories / seconds:.0f} histories a second)")
    return 1 if failing else 0


def _percent(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.3f} %" if whole else "none"


def _kill(most: int) -> int:
    survived = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for each in as_completed([pool.submit(_mutant, name, most) for name in mutants()]):
            name, seed, line = each.result()
            survived += seed is None
            noticed = f"seed {seed}: {line}" if seed is not None else "NOT NOTICED"
            print(f"without condition {name}: {noticed}", flush=True)
    print(
        f"{len(mutants()) - survived} of {len(mutants())} weakened rules accused an innocent and were noticed"
    )
    return 1 if survived else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="the proof that nobody innocent is accused")
    parser.add_argument("--histories", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play only this one, and tell it step by step")
    parser.add_argument("--mutants", action="store_true", help="leave out each condition in turn")
    given = parser.parse_args(arguments)
    if given.mutants:
        return _kill(min(given.histories, 5000))
    if given.seed is not None:
        with silent():
            result = play(given.seed, print)
        print(*(f"FALSE {f}" for f in result.false), *(f"MISSED {m}" for m in result.missed), sep="\n")
        return 1 if result.false or result.missed else 0
    return _prove(given.histories, given.first)


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:
        # A seed tells the same history only if sets are in the same order.
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONHASHSEED": "0"})
    sys.exit(main())
