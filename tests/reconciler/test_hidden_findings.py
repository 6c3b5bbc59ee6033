"""Is a finding shown with what explains it, and told the same as ever?"""

from __future__ import annotations

from pathlib import Path

from test_reconciler import running

from truetally.model.findings import State
from truetally.model.observations import Lost, Trouble
from truetally.model.refs import TRUENAS_KINDS
from truetally.tally import Tally
from worlds import NAS, PATH, a_dataset

PRESSING = {"grace": "1m", "source_unavailable_after": "1m"}


def tally(it) -> Tally:
    return Tally(
        it.reconciler,
        None,
        it.clock,
        config_file=Path("/dev/null"),
        sources=tuple,
        receivers=tuple,
        history_trouble=str,
        warnings=tuple,
        recorded=None,
    )


async def unresolved(it):
    told = frozenset({State.OPEN, State.HELD})
    return await tally(it).findings(state=told, rule=None, severity=None, source=None)


async def test_a_finding_on_a_nas_that_is_away_is_shown_hidden_by_that_of_the_nas():
    async with running(a_dataset(), rules=PRESSING) as it:
        await it.read_all()
        await it.wait(70)
        shown = await unresolved(it)
        assert [f.hidden_by for f in shown] == [()]
        at = it.clock.ticks()
        await it.reconciler.emit([Lost(NAS, kind, Trouble.UNREACHABLE, "off", at) for kind in TRUENAS_KINDS])
        await it.settle()
        await it.wait(70)
        shown = await unresolved(it)
        away, orphan = sorted(shown, key=lambda f: f.rule == "dataset-without-volume")
        assert (away.rule, away.hidden_by) == ("source-unavailable", ())
        assert (orphan.state, orphan.hidden_by) == (State.HELD, (away.fingerprint,))
        assert await tally(it).finding(orphan.fingerprint) == orphan
        assert tally(it).explain("dataset", PATH, None)[0].findings == (orphan,)
        assert all(not t.finding.hidden_by for t in it.told)
