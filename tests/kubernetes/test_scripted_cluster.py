"""Is the source safe from what a real apiserver does only when it is ill?"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import msgspec
import pytest
from aiohttp import web

from kubernetes.heard import BRISK, watching
from kubernetes.ill import EXPIRED, Ill, Later, a_class, a_list, an_event, half_of, serving
from truetally.clock import SystemClock
from truetally.errors import SourceUnavailable
from truetally.model.observations import Gone
from truetally.model.refs import KUBERNETES_KINDS, Kind


async def test_half_a_list_completes_nothing(tmp_path):
    class Cut(Ill):
        async def list(self, request):
            if "continue" not in request.query:
                return web.json_response(a_list(a_class("first", 1), more="page-2"))
            return await half_of(request, a_list(a_class("second", 1)))

    ill = Cut()
    async with serving(ill, tmp_path) as kubeconfig, watching(kubeconfig) as (_, heard):
        await heard.complete(KUBERNETES_KINDS - {Kind.STORAGE_CLASS})
        await heard.until(lambda: heard.lost(Kind.STORAGE_CLASS))
        await ill.until(lambda: ill.lists >= 6)
        assert heard.lists(Kind.STORAGE_CLASS) == []
        assert heard.seen(Kind.STORAGE_CLASS, "first")
        assert heard.seen(Kind.STORAGE_CLASS, "second") == []


async def test_a_list_whose_second_page_has_expired_is_begun_anew(tmp_path):
    class Expiring(Ill):
        async def list(self, request):
            if "continue" in request.query:
                return web.json_response(EXPIRED, status=410)
            if self.lists == 1:
                return web.json_response(a_list(a_class("stale", 1), more="page-2"))
            return web.json_response(a_list(a_class("fresh", 5), version=5))

    async with serving(Expiring(), tmp_path) as kubeconfig, watching(kubeconfig) as (_, heard):
        await heard.complete()
    assert [one.names for one in heard.lists(Kind.STORAGE_CLASS)] == [{"fresh"}]


async def test_an_event_longer_than_any_buffer_is_read(tmp_path):
    class Long(Ill):
        async def watch(self, request, response):
            await response.write(an_event("ADDED", a_class("long", 2, padding=5 * 2**20)))
            await response.write(an_event("ADDED", a_class("short", 3)) * 2)
            await asyncio.Event().wait()

    async with serving(Long(), tmp_path) as kubeconfig, watching(kubeconfig) as (_, heard):
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "long"))
        await heard.until(lambda: len(heard.seen(Kind.STORAGE_CLASS, "short")) == 2)
    assert len(heard.lists(Kind.STORAGE_CLASS)) == 1


async def test_watches_that_end_at_once_and_without_a_word_are_taken_up_ever_more_slowly(tmp_path):
    class Empty(Ill):
        async def watch(self, request, response):
            at.append(SystemClock().ticks())

    at: list[float] = []
    ill = Empty()
    pace = msgspec.structs.replace(
        BRISK,
        first_retry=timedelta(milliseconds=100),
        last_retry=timedelta(seconds=2),
        lost_after=timedelta(minutes=1),
    )
    async with serving(ill, tmp_path) as kubeconfig, watching(kubeconfig, pace) as (_, heard):
        await ill.until(lambda: len(ill.watches) >= 5)
        assert heard.lost(Kind.STORAGE_CLASS) == []
    waited = [later - sooner for sooner, later in pairwise(at)]
    # Each pause is at least half of its longest: 100, 200, 400 ms.
    assert [pause >= least for pause, least in zip(waited, [0.05, 0.1, 0.2], strict=False)] == [True] * 3
    assert ill.lists == 1


async def test_a_watch_that_for_long_says_nothing_from_one_version_is_given_another_by_a_list(tmp_path):
    class Mute(Ill):
        async def list(self, request):
            return web.json_response(a_list(version=self.lists))

        async def watch(self, request, response):
            if request.query["resourceVersion"] != "1":
                await response.write(an_event("ADDED", a_class("heard", 9)))
                await asyncio.Event().wait()

    async with serving(Mute(), tmp_path) as kubeconfig, watching(kubeconfig) as (_, heard):
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "heard"))
    assert heard.lost(Kind.STORAGE_CLASS) == []


async def test_events_that_are_not_about_storage_cost_the_reconciler_nothing(tmp_path):
    class Busy(Ill):
        async def answer(self, request):
            if request.path != "/api/v1/events" or "watch" not in request.query:
                return await super().answer(request)
            response = web.StreamResponse()
            await response.prepare(request)
            for version, reason in enumerate(["Pulled"] * 50 + ["FailedMount"], start=2):
                meta = {"name": reason.lower(), "namespace": "shop", "resourceVersion": str(version)}
                await response.write(an_event("ADDED", {"metadata": meta, "reason": reason}))
            await asyncio.Event().wait()
            return response

    async with serving(Busy(), tmp_path) as kubeconfig, watching(kubeconfig) as (_, heard):
        await heard.until(lambda: heard.seen(Kind.EVENT, "shop/failedmount"))
    assert not [one for one in heard.all if isinstance(one, Gone)]


async def test_watches_that_always_answer_410_do_not_make_us_list_without_a_pause(tmp_path):
    class Forgetful(Ill):
        async def watch(self, request, response):
            at.append(SystemClock().ticks())
            await response.write(an_event("ERROR", EXPIRED))

    at: list[float] = []
    ill = Forgetful()
    pace = msgspec.structs.replace(
        BRISK, first_retry=timedelta(milliseconds=100), last_retry=timedelta(seconds=2)
    )
    async with serving(ill, tmp_path) as kubeconfig, watching(kubeconfig, pace):
        await ill.until(lambda: len(ill.watches) >= 5)
    waited = [later - sooner for sooner, later in pairwise(at)]
    assert [pause >= least for pause, least in zip(waited, [0.05, 0.1, 0.2], strict=False)] == [True] * 3


async def test_a_watch_is_taken_up_where_the_last_bookmark_stood(tmp_path):
    class Marking(Ill):
        async def watch(self, request, response):
            if len(self.watches) == 1:
                await response.write(an_event("BOOKMARK", {"metadata": {"resourceVersion": "77"}}))
            else:
                await asyncio.Event().wait()

    ill = Marking()
    async with serving(ill, tmp_path) as kubeconfig, watching(kubeconfig):
        await ill.until(lambda: len(ill.watches) >= 2)
    assert [each["resourceVersion"] for each in ill.watches[:2]] == ["1", "77"]
    assert ill.lists == 1


async def test_an_event_that_arrives_during_a_list_cannot_outlive_what_the_list_says(tmp_path):
    """Created at 5, deleted at 6, listed at 9 without it: however late the events come, it is gone."""

    class Late(Ill):
        async def list(self, request):
            if self.lists == 1:
                return web.json_response(a_list(version=1))
            self.listing.set()
            await self.answer_now.wait()
            return web.json_response(a_list(a_class("kept", 8), version=9))

        async def watch(self, request, response):
            await self.listing.wait()
            await response.write(an_event("ADDED", a_class("ghost", 5)))
            self.answer_now.set()
            await self.listed.wait()
            await response.write(an_event("DELETED", a_class("ghost", 6)))
            await response.write(an_event("ADDED", a_class("after", 10)))
            await asyncio.Event().wait()

    ill = Late()
    ill.listing, ill.answer_now, ill.listed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with serving(ill, tmp_path) as kubeconfig, watching(kubeconfig) as (source, heard):
        await heard.complete()
        await ill.until(lambda: ill.watches)
        await source.relist(frozenset({Kind.STORAGE_CLASS}))
        ill.listed.set()
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "after"))
        newest = {one.ref.name: one.asked_at for one in heard.all if hasattr(one, "ref")}
    assert heard.tally(Kind.STORAGE_CLASS) == {"kept", "after"}
    assert "ghost" not in newest


async def test_a_watch_that_was_idle_for_an_hour_is_not_lost_the_moment_it_breaks(tmp_path):
    class Breaking(Ill):
        async def watch(self, request, response):
            if len(self.watches) == 1:
                await response.write(an_event("ADDED", a_class("before", 3)))
                await self.breaking.wait()
                request.transport.close()
            else:
                await response.write(an_event("ADDED", a_class("after", 4)))
            await asyncio.Event().wait()

    ill, clock = Breaking(), Later()
    ill.breaking = asyncio.Event()
    patient = msgspec.structs.replace(BRISK, lost_after=timedelta(seconds=30))
    async with serving(ill, tmp_path) as kubeconfig, watching(kubeconfig, patient, clock) as (_, heard):
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "before"))
        clock.ahead = 3600.0
        ill.breaking.set()
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "after"))
    assert heard.lost(Kind.STORAGE_CLASS) == []
    assert ill.lists == 1


async def test_a_cluster_restored_from_a_backup_is_listed_again_though_its_watch_says_nothing(tmp_path):
    class Restored(Ill):
        async def list(self, request):
            version = 9000 if self.lists == 1 else 12
            return web.json_response(a_list(a_class(f"at-{version}", version), version=version))

        async def watch(self, request, response):
            if request.query["resourceVersion"] == "12":
                await response.write(an_event("ADDED", a_class("after", 13)))
            else:
                await self.ending.wait()

    ill, clock = Restored(), Later()
    ill.ending = asyncio.Event()
    async with serving(ill, tmp_path) as kubeconfig, watching(kubeconfig, clock=clock) as (_, heard):
        await ill.until(lambda: ill.watches)
        clock.ahead = 270.0
        ill.ending.set()
        await heard.until(lambda: heard.tally(Kind.STORAGE_CLASS) == {"at-12", "after"})
    assert heard.lost(Kind.STORAGE_CLASS) == []


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"items": 5, "metadata": {}}', b"[]"])
async def test_an_answer_that_is_no_list_loses_the_kind_and_says_so(tmp_path, body):
    class Babbling(Ill):
        async def list(self, request):
            return web.Response(body=body, content_type="application/json")

    async with serving(Babbling(), tmp_path) as kubeconfig, watching(kubeconfig) as (source, heard):
        await heard.complete(KUBERNETES_KINDS - {Kind.STORAGE_CLASS})
        await heard.until(lambda: heard.lost(Kind.STORAGE_CLASS))
        with pytest.raises(SourceUnavailable, match="storageclasses cannot be read"):
            await source.relist(frozenset({Kind.STORAGE_CLASS}))


async def test_an_event_that_cannot_be_read_is_followed_by_another_try(tmp_path):
    class Garbling(Ill):
        async def watch(self, request, response):
            if len(self.watches) == 1:
                await response.write(b"garbage\n")
            else:
                await response.write(an_event("ADDED", a_class("legible", 4)))
            await asyncio.Event().wait()

    async with serving(Garbling(), tmp_path) as kubeconfig, watching(kubeconfig) as (_, heard):
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "legible"))


async def test_a_list_that_never_ends_is_refused_in_time(tmp_path):
    class Stuck(Ill):
        async def list(self, request):
            await asyncio.Event().wait()

    pace = msgspec.structs.replace(BRISK, relist_within=timedelta(milliseconds=200))
    async with serving(Stuck(), tmp_path) as kubeconfig, watching(kubeconfig, pace) as (source, heard):
        await heard.complete(KUBERNETES_KINDS - {Kind.STORAGE_CLASS})
        with pytest.raises(SourceUnavailable, match="does not answer in time"):
            await source.relist(frozenset({Kind.STORAGE_CLASS}))
