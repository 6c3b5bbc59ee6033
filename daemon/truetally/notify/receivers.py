"""Receivers: where messages go, through Apprise.

Apprise blocks. Its own `notify()` and `async_notify()` send from one process-wide
pool of threads (Apprise 2.2, `get_shared_executor`), so six receivers that hang
would silence all others. Each receiver here has a thread of its own, and at most
one; the plugin is called directly.

An Apprise URL holds a secret. It appears in no message, and Apprise's own log,
which quotes URLs, is read for the reason of a failure and goes nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import msgspec

from truetally.errors import ConfigurationInvalid
from truetally.notify.templates import Message
from truetally.settings import NotifySettings, ReceiverSettings

_CONNECT_WITHIN = timedelta(seconds=10)


class Outcome(msgspec.Struct, frozen=True):
    """What came of sending a message; `detail` says why it was not accepted, and holds no secret."""

    accepted: bool
    detail: str = ""


class Receiver(Protocol):
    """Somebody who can be told something."""

    @property
    def timeout(self) -> timedelta:
        """After this it counts as hanging."""
        ...

    async def send(self, message: Message) -> Outcome:
        """Tell it, and wait for its answer."""
        ...


class AppriseReceiver:
    """A receiver that an Apprise URL describes."""

    def __init__(self, name: str, plugin: Any, timeout: timedelta) -> None:
        self.name = name
        self.timeout = timeout
        self._plugin = plugin

    async def send(self, message: Message) -> Outcome:
        """Tell it, and wait for its answer as long as Apprise does.

        Nobody is helped by giving up sooner: the thread cannot be stopped, and its answer says whether the
        message arrived. One call at a time: the caller waits for the answer before it sends again.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()

        def settle(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def send() -> None:
            outcome = _send(self._plugin, message)
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:
                return  # the loop has ended: nobody waits for the answer any more

        # A daemon thread, unlike those of a pool, does not keep the process from ending while it hangs.
        threading.Thread(target=send, name=f"receiver {self.name}", daemon=True).start()
        return await answer


async def load(settings: NotifySettings, urls: Mapping[str, str]) -> dict[str, AppriseReceiver]:
    """The configured receivers by name; `urls` holds the Apprise URL of each.

    Raises:
        ConfigurationInvalid: Apprise does not take a URL; the text names the receiver, never the URL.
    """
    if not settings.receivers:
        return {}  # Apprise costs 0.3 s and 44 MiB
    return await asyncio.to_thread(_load, settings, urls)


def _load(settings: NotifySettings, urls: Mapping[str, str]) -> dict[str, AppriseReceiver]:
    _silence()
    loaded: dict[str, AppriseReceiver] = {}
    mistakes = []
    for receiver in settings.receivers:
        plugin = _plugin(urls[receiver.name], receiver)
        if plugin is None:
            mistakes.append(
                f"notify.receivers[{receiver.name}].url: Apprise does not take this URL "
                "(not shown, it holds a secret); compare it with https://appriseit.com/services/"
            )
        else:
            loaded[receiver.name] = AppriseReceiver(receiver.name, plugin, receiver.timeout)
    if mistakes:
        raise ConfigurationInvalid("\n".join(mistakes))
    return loaded


def _plugin(url: str, receiver: ReceiverSettings) -> Any:
    import apprise

    # A redirected POST becomes a GET that the target answers with 200: the message would be lost silently.
    asset = apprise.AppriseAsset(app_id="truetally", app_desc="truetally", http_redirects=False)
    plugin = apprise.Apprise.instantiate(url.strip(), asset=asset, suppress_exceptions=True)
    if plugin is None:
        return None
    seconds = receiver.timeout.total_seconds()
    if not re.search(r"[?&]rto=", url):
        plugin.socket_read_timeout = seconds
    if not re.search(r"[?&]cto=", url):
        plugin.socket_connect_timeout = min(seconds, _CONNECT_WITHIN.total_seconds())
    return plugin


def _send(plugin: Any, message: Message) -> Outcome:
    _reasons.forget()
    try:
        accepted = plugin.notify(
            body=message.body, title=message.title, notify_type=message.tone.value, body_format="text"
        )
    except Exception as error:
        # A hundred plugins by a hundred authors raise what they like, with the URL in the text.
        return Outcome(accepted=False, detail=f"the Apprise plugin failed with {type(error).__name__}")
    return Outcome(accepted=True) if accepted else Outcome(accepted=False, detail=_reasons.recall())


class _Reasons(logging.Handler):
    """Reads out of Apprise's log why a message was not accepted, for each thread on its own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if status := re.search(r"\berror=(\d{3})\b", text):
            self._of_thread.reason = f"it answered with HTTP status {status[1]}"
        elif "onnection error" in text:
            self._of_thread.reason = "it cannot be reached, or did not answer in time"

    def forget(self) -> None:
        self._of_thread.reason = "it did not accept the message"

    def recall(self) -> str:
        return str(self._of_thread.reason)


_reasons = _Reasons()


def _silence() -> None:
    """Keep Apprise's and urllib3's logs, which quote URLs with their secrets, to ourselves."""
    apprise_log = logging.getLogger("apprise")
    apprise_log.propagate = False
    apprise_log.setLevel(logging.WARNING)
    if _reasons not in apprise_log.handlers:
        apprise_log.addHandler(_reasons)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
