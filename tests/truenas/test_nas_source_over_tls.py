"""Is the NAS verified by the CA that is configured, and our own certificate shown where it is asked for?"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme
from scripted import Heard, are_complete, lost, nas_settings

from truetally.clock import SystemClock
from truetally.lab.nas import LabNas
from truetally.model.refs import TRUENAS_KINDS
from truetally.settings import NasSettings
from truetally.sources.truenas.logins import Credential
from truetally.sources.truenas.source import NasSource


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def server_context(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*names).configure_cert(context)
    return context


@asynccontextmanager
async def watched(context: ssl.SSLContext, **config) -> AsyncIterator[tuple[LabNas, Heard]]:
    nas = LabNas(tls=context)
    nas.zfs.create_pool("tank")
    await nas.start()
    who, heard = Credential("truetally", nas.add_key()), Heard()
    port = int(nas.url.rpartition(":")[2])
    settings = NasSettings.model_validate(
        nas_settings(port).model_dump() | {"url": f"wss://127.0.0.1:{port}"} | config
    )
    task = asyncio.create_task(NasSource(settings, lambda: who, heard.emit, SystemClock()).run())
    try:
        yield nas, heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await nas.stop()


async def is_listed(heard: Heard) -> None:
    await heard.until(lambda seen: are_complete(seen, TRUENAS_KINDS))


async def reason(heard: Heard) -> str:
    return (await heard.until(lost))[0].reason


async def test_a_nas_with_a_certificate_of_ones_own_ca_is_listed(ca, tmp_path):
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with watched(server_context(ca, "127.0.0.1"), ca_file=tmp_path / "ca.pem") as (_, heard):
        await is_listed(heard)


async def test_a_certificate_of_an_unknown_ca_is_refused_before_the_key_is_sent(ca):
    async with watched(server_context(ca, "127.0.0.1")) as (nas, heard):
        said = await reason(heard)
        assert "is not trusted" in said
        assert "ca_file" in said
        assert nas.faults.calls.total() == 0


async def test_a_certificate_for_another_name_is_refused(ca, tmp_path):
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with watched(server_context(ca, "elsewhere.example"), ca_file=tmp_path / "ca.pem") as (nas, heard):
        assert "is not trusted" in await reason(heard)
        assert nas.faults.calls.total() == 0


@pytest.mark.parametrize("shown", [True, False])
async def test_a_client_certificate_is_shown_where_the_server_asks_for_one(ca, tmp_path, shown):
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = ca.issue_cert("truetally@example.com")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    context = server_context(ca, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    config = {"ca_file": tmp_path / "ca.pem"}
    if shown:
        config["client_certificate"] = tmp_path / "client.pem"
    async with watched(context, **config) as (_, heard):
        if shown:
            await is_listed(heard)
        else:
            assert "connection" in await reason(heard)


async def test_a_ca_file_that_is_missing_is_said_and_not_ignored(ca, tmp_path):
    async with watched(server_context(ca, "127.0.0.1"), ca_file=tmp_path / "missing.pem") as (_, heard):
        assert "its TLS files cannot be used" in await reason(heard)
