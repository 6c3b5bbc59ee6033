"""Do fresh credentials arrive unnoticed, and bad ones without telling a secret?"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from kubernetes.heard import BRISK, watching
from kubernetes.ill import Ill, serving
from truetally.errors import CredentialsRefused, SourceUnavailable
from truetally.model.observations import Trouble
from truetally.model.refs import KUBERNETES_KINDS, Kind
from truetally.settings import ClusterSettings
from truetally.sources.kubernetes import client
from truetally.sources.kubernetes.client import ClusterClient

OFTEN = msgspec.structs.replace(BRISK, watch_for=timedelta(seconds=1))


class Guarded(Ill):
    """Lets in who brings one of the tokens, and ends its watches as a real apiserver does."""

    def __init__(self, *good: str) -> None:
        super().__init__()
        self.good = set(good)
        self.brought: Counter[str] = Counter()

    async def watch(self, request: web.Request, response: web.StreamResponse) -> None:
        await asyncio.sleep(1.1)  # a watch lasts its second; shorter ones count as refused

    async def answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.brought[token] += 1
        if token not in self.good:
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        return await super().answer(request)


def as_user(kubeconfig: Path, user: dict[str, Any]) -> Path:
    config = json.loads(kubeconfig.read_text())
    config["users"] = [{"name": "ill", "user": user}]
    kubeconfig.write_text(json.dumps(config))
    return kubeconfig


def a_plugin(path: Path, script: str) -> dict[str, Any]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path)}}


def printing(token: Path, expires: datetime | None = None) -> str:
    """The script of a plugin that gives the token in that file."""
    until = f',"expirationTimestamp":"{expires:%Y-%m-%dT%H:%M:%SZ}"' if expires else ""
    head = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"'
    return f"printf '%s%s%s' '{head}' \"$(cat {token})\" '\"{until}}}}}'"


def connecting(kubeconfig: Path) -> ClusterClient:
    return ClusterClient(ClusterSettings(name="here", kubeconfig=kubeconfig))


@pytest.mark.parametrize("by", ["token file", "plugin"])
async def test_a_token_that_is_rotated_loses_no_kind(tmp_path, by):
    ill, token = Guarded("first"), tmp_path / "token"
    token.write_text("first")
    plugin = a_plugin(tmp_path / "plugin", printing(token))
    async with serving(ill, tmp_path) as kubeconfig:
        as_user(kubeconfig, {"tokenFile": str(token)} if by == "token file" else plugin)
        async with watching(kubeconfig, OFTEN) as (_, heard):
            await heard.complete()
            token.write_text("second")
            ill.good = {"second"}
            before = len(ill.watches)
            await ill.until(lambda: len(ill.watches) >= before + 2)
    assert ill.brought["second"]
    assert [one for kind in KUBERNETES_KINDS for one in heard.lost(kind)] == []
    assert len(heard.lists(Kind.STORAGE_CLASS)) == 1


async def test_a_token_whose_plugin_says_it_has_expired_is_renewed_before_anybody_refuses_it(tmp_path):
    ill, token = Guarded("first", "second"), tmp_path / "token"
    token.write_text("first")
    expired = datetime.now(UTC) - timedelta(minutes=1)
    async with serving(ill, tmp_path) as kubeconfig:
        as_user(kubeconfig, a_plugin(tmp_path / "plugin", printing(token, expired)))
        ours = connecting(kubeconfig)
        await ours.get("/version", {})
        token.write_text("second")
        await ours.get("/version", {})
        await ours.close()
    assert ill.brought == {"first": 1, "second": 1}


async def test_a_token_that_lasts_is_asked_of_its_plugin_only_once(tmp_path):
    ill, token, runs = Guarded("first"), tmp_path / "token", tmp_path / "runs"
    token.write_text("first")
    script = f"echo run >> {runs}\n" + printing(token, datetime.now(UTC) + timedelta(hours=1))
    async with serving(ill, tmp_path) as kubeconfig:
        as_user(kubeconfig, a_plugin(tmp_path / "plugin", script))
        async with watching(kubeconfig) as (_, heard):
            await heard.complete()
    assert runs.read_text().split() == ["run"]


async def test_credentials_that_were_never_good_are_not_tried_twice_at_once(tmp_path):
    ill = Guarded("good")
    async with serving(ill, tmp_path) as kubeconfig:
        with pytest.raises(CredentialsRefused):
            await connecting(as_user(kubeconfig, {"token": "bad"})).get("/version", {})
    assert ill.brought == {"bad": 1}


@pytest.mark.parametrize(
    "user",
    [
        {"name": "ill", "token": "hunter2"},
        {"name": "ill", "user": {"exec": {"command": None, "apiVersion": "v1", "args": ["hunter2"]}}},
        {"name": "ill", "user": {"auth-provider": {"name": "oidc", "config": "hunter2"}}},
        {"name": "ill", "user": {"auth-provider": {"config": {"refresh-token": "hunter2"}, "name": "oidc"}}},
    ],
)
async def test_a_kubeconfig_with_a_mistake_is_told_without_its_secrets(tmp_path, user, caplog):
    async with serving(Ill(), tmp_path) as kubeconfig:
        config = json.loads(kubeconfig.read_text())
        kubeconfig.write_text(json.dumps({**config, "users": [user]}))
        with pytest.raises(SourceUnavailable, match="cannot take credentials from") as refused:
            await connecting(kubeconfig).get("/version", {})
    assert str(kubeconfig) in refused.value.reason
    assert "hunter2" not in refused.value.reason + caplog.text


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'log in first' >&2; exit 3", "ended with 3: log in first"),
        ("echo hunter2", "printed no ExecCredential"),
        ("""echo '{"apiVersion": "v0", "status": {"token": "hunter2"}}'""", "speaks v0"),
        # More complaint than a pipe holds: who reads one stream after the other waits for ever.
        ("head -c 300000 /dev/zero | tr '\\0' x >&2; exit 4", "ended with 4"),
    ],
)
async def test_a_plugin_that_fails_is_told_by_what_it_says_but_not_by_what_it_prints(tmp_path, script, said):
    async with serving(Ill(), tmp_path) as kubeconfig:
        as_user(kubeconfig, a_plugin(tmp_path / "plugin", script))
        with pytest.raises(SourceUnavailable, match=said) as refused:
            await connecting(kubeconfig).get("/version", {})
    assert "hunter2" not in refused.value.reason


async def test_a_plugin_that_hangs_is_ended_with_all_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_CONFIGURE_WITHIN", 0.5)
    started = tmp_path / "started"
    async with serving(Ill(), tmp_path) as kubeconfig:
        script = f"sleep 60 &\necho $$ $! >> {started}\nwait"
        ours = connecting(as_user(kubeconfig, a_plugin(tmp_path / "plugin", script)))
        for _ in range(2):
            with pytest.raises(SourceUnavailable, match="plugin does not answer"):
                await ours.get("/version", {})
    pids = started.read_text().split()
    assert len(pids) == 4
    async with asyncio.timeout(10):
        while any(_lives(pid) for pid in pids):
            await asyncio.sleep(0.01)


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_kubeconfig_that_appears_later_is_found(tmp_path):
    async with serving(Ill(), tmp_path) as kubeconfig:
        later = tmp_path / "later"
        async with watching(later) as (_, heard):
            await heard.until(lambda: all(heard.lost(kind, Trouble.UNREACHABLE) for kind in KUBERNETES_KINDS))
            later.write_text(kubeconfig.read_text())
            await heard.complete()
    assert "there is no such file" in heard.lost(Kind.POD)[0].reason
