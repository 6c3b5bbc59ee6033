"""Who we are to a cluster: a kubeconfig or the pod's own ServiceAccount, as kubernetes_asyncio reads them.

Import it only when a connection is made, and not on the loop: the library's thousand modules
take more than a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kubernetes_asyncio import client, config
from kubernetes_asyncio.config import kube_config
from kubernetes_asyncio.config.config_exception import ConfigException
from kubernetes_asyncio.config.exec_provider import ExecProvider

from truetally.settings import ClusterSettings

# What it logs it raises as well, and its text may hold a whole user of the kubeconfig, token and all.
logging.getLogger("kubernetes_asyncio.config").setLevel(logging.CRITICAL)


class Plugin(ExecProvider):  # type: ignore[misc, unused-ignore]
    """An exec plugin that is ended when nobody waits for it any more.

    The library's own (36.1) leaves the process behind: one that hangs would be one more with each try.
    """

    async def run(self, previous_response: str | None = None) -> Any:
        """The `status` of the ExecCredential that the plugin prints."""
        request = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        environment = {**self.env, "KUBERNETES_EXEC_INFO": json.dumps(request)}
        process = await asyncio.create_subprocess_exec(
            *self.args, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        try:
            printed, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                _kill(process.pid)
        if process.returncode:
            said = complaint.decode(errors="replace").strip()
            raise ConfigException(f"the plugin {self.args[0]} ended with {process.returncode}: {said}")
        return self._credential(printed)

    def _credential(self, printed: bytes) -> Any:
        try:
            answer = json.loads(printed)
            version, status = answer["apiVersion"], answer["status"]
        except (ValueError, KeyError, TypeError):
            # What it printed is a secret, or was meant to be one.
            raise ConfigException(f"the plugin {self.args[0]} printed no ExecCredential") from None
        if version != self.api_version:
            raise ConfigException(f"the plugin {self.args[0]} speaks {version}, not {self.api_version}")
        return status


def _kill(leader: int) -> None:
    # The whole session: a plugin is often a shell script, and what it waits for would live on.
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


# The loader takes the class from its module and offers no other way to give it one.
kube_config.ExecProvider = Plugin  # type: ignore[attr-defined, unused-ignore]


async def configured(settings: ClusterSettings, kubeconfig: Path) -> Any:
    """The library's configuration for one cluster, which keeps its token fresh."""
    configuration = client.Configuration()
    if settings.in_cluster:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return configuration
    _expect(kubeconfig)
    loader = await config.load_kube_config(
        config_file=str(kubeconfig),
        context=settings.context,
        client_configuration=configuration,
        persist_config=False,
    )
    configuration.refresh_api_key_hook = _renewing(loader)
    return configuration


def _expect(kubeconfig: Path) -> None:
    # The library would only stumble over it, and say something about NoneType.
    if not kubeconfig.exists():
        raise ConfigException("there is no such file")


def _renewing(loader: Any) -> Callable[[Any], Awaitable[None]]:
    turn = asyncio.Lock()  # all kinds find the token expired at once, and one run of the plugin is enough

    async def renew(configuration: Any) -> None:
        if not hasattr(loader, "exec_plugin_expiry"):
            return
        async with turn:
            await loader.load_from_exec_plugin()  # does nothing while the token is good
        configuration.api_key["BearerToken"] = loader.token

    return renew
