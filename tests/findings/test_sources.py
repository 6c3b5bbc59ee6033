"""Is it told which source, or which kind of it, cannot be read?"""

from __future__ import annotations

import pytest

from truetally.findings.catalogue import RULES
from truetally.findings.rule import Clear, Evidence
from truetally.findings.sources import INFORMATIVE, SOURCE_UNAVAILABLE, subjects
from truetally.graph.graph import Changes
from truetally.model.findings import Severity
from truetally.model.observations import Lost, Trouble
from truetally.model.refs import TRUENAS_KINDS, Kind, Ref
from worlds import CLUSTER, NAS, world


def found(*losses: Lost) -> dict[str, Evidence]:
    in_world = world()
    for loss in losses:
        in_world.graph.apply(loss, Changes())
    judged = {ref.name: SOURCE_UNAVAILABLE.judge(ref, in_world) for ref in subjects(in_world)}
    return {name: each for name, each in judged.items() if isinstance(each, Evidence)}


def test_while_everything_can_be_read_nothing_is_found():
    assert found() == {}


def test_a_source_that_is_away_is_one_finding_and_not_one_for_each_kind():
    away = found(*(Lost(NAS, kind, Trouble.UNREACHABLE, "it is off", 2.0) for kind in TRUENAS_KINDS))
    assert list(away) == [NAS]
    assert away[NAS].summary == "nas1 cannot be read: it is off"


def test_refused_credentials_are_critical():
    refused = found(Lost(NAS, Kind.POOL, Trouble.CREDENTIALS, "the key has expired", 2.0))
    assert refused[NAS].severity is Severity.CRITICAL


@pytest.mark.parametrize("trouble", [Trouble.DENIED, Trouble.FAILED])
def test_a_kind_alone_is_named(trouble):
    alone = found(Lost(CLUSTER, Kind.POD, trouble, "grant list on pods", 2.0))
    assert list(alone) == ["prod/Pod"]
    assert "grant list on pods" in alone["prod/Pod"].summary


def test_what_a_version_does_not_tell_is_no_finding_because_nobody_can_mend_it():
    assert found(Lost(NAS, Kind.SMB_CLIENT, Trouble.UNTOLD, "25.10 does not tell", 2.0)) == {}


def test_a_source_that_is_not_configured_any_more_is_cleared():
    assert isinstance(SOURCE_UNAVAILABLE.judge(Ref("old", Kind.SOURCE, "old"), world()), Clear)


def test_what_no_rule_needs_is_worth_a_note_only():
    needed = {kind for rule in RULES for kind in rule.needs}
    assert not INFORMATIVE & needed
    for kind, severity in ((Kind.NFS_CLIENT, Severity.INFO), (Kind.DATASET, None)):
        denied = found(Lost(NAS, kind, Trouble.DENIED, "not permitted", 2.0))
        assert denied[f"{NAS}/{kind.value}"].severity is severity
