"""Telling for real: the history's outbox, Apprise, and receivers on loopback."""

from __future__ import annotations

import asyncio
import email
import email.policy
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiosmtpd.smtp import SMTP

from truetally.clock import SystemClock
from truetally.errors import ConfigurationInvalid
from truetally.history.history import History
from truetally.model.deliveries import DeliveryState
from truetally.model.findings import Finding, Severity, State, Transition
from truetally.model.refs import Kind, Ref
from truetally.notify.dispatcher import Dispatcher, Pace, ReceiverState
from truetally.notify.receivers import AppriseReceiver, load
from truetally.notify.routing import Router
from truetally.notify.templates import Message, Tone
from truetally.settings import NotifySettings, ReceiverSettings, RouteSettings, SecretReference

NOW = datetime.now(UTC)
FAST = Pace(
    gather_for=timedelta(0), retry_after=timedelta(milliseconds=30), retry_within=timedelta(milliseconds=60)
)
HELLO = Message("title", "body", Tone.WARNING)


def a_transition(
    name: str = "tank/a", state: State = State.OPEN, before: State = State.PENDING
) -> Transition:
    subject = Ref("nas1", Kind.DATASET, name)
    finding = Finding(
        name, "rule", subject, Severity.WARNING, state, f"about {name}", "fix it", {}, NOW, opened_at=NOW
    )
    return Transition(finding, before, NOW)


def resolved(name: str = "tank/a") -> Transition:
    return a_transition(name, State.RESOLVED, State.OPEN)


def settings(*names: str, timeout: timedelta = timedelta(seconds=5)) -> NotifySettings:
    reference = SecretReference(env="URL")
    return NotifySettings(
        receivers=tuple(ReceiverSettings(name=name, url=reference, timeout=timeout) for name in names),
        routes=(RouteSettings(receivers=names),),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Hook:
    """A webhook on loopback: remembers what it got, and answers as its path says."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.bodies: list[str] = []
        self.refusals = 0
        self.refuse = False
        self.release = asyncio.Event()
        self.port = 0

    def url(self, path: str = "") -> str:
        return f"json://127.0.0.1:{self.port}/{path}"

    async def answer(self, request: web.Request) -> web.Response:
        got = await request.json()
        if self.refuse:
            self.refusals += 1
            return web.Response(status=503)
        if request.path == "/redirect":
            raise web.HTTPFound("/elsewhere")
        self.titles.append(got["title"])
        self.bodies.append(got["message"])
        if request.path == "/hang":
            await self.release.wait()
        return web.Response()


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hook.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook.port = runner.addresses[0][1]
    yield hook
    hook.release.set()
    await runner.cleanup()


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    history = await History.open(tmp_path / "history", SystemClock())
    yield history
    await history.close()


async def a_receiver(url: str, timeout: timedelta = timedelta(seconds=5)) -> AppriseReceiver:
    return (await load(settings("ops", timeout=timeout), {"ops": url}))["ops"]


@asynccontextmanager
async def dispatching(history: History, urls: dict[str, str], pace: Pace = FAST) -> AsyncIterator[Dispatcher]:
    receivers = await load(settings(*urls), urls) if urls else {}
    dispatcher = Dispatcher(history, receivers, SystemClock(), pace)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        await dispatcher.drain(timedelta(seconds=2))
        await asyncio.wait_for(task, 5)


async def record(history: History, router: Router, *transitions: Transition) -> None:
    await history.record(transitions, router.route(transitions))


async def states(history: History) -> list[DeliveryState]:
    return [each.state for each in reversed(await history.recent_deliveries())]


# A receiver


async def test_a_webhook_gets_title_body_and_tone(hook: Hook):
    assert (await (await a_receiver(hook.url())).send(HELLO)).accepted
    assert (hook.titles, hook.bodies) == (["title"], ["body"])


async def test_mail_gets_the_text_as_it_is():
    got = []

    class Mailbox:
        async def handle_DATA(self, server: object, session: object, envelope: object) -> str:
            got.append(envelope)
            return "250 OK"

    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Mailbox()), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"mailto://127.0.0.1:{port}/?from=a@localhost&to=b@localhost&mode=insecure&format=text"
        receiver = await a_receiver(url)
        outcome = await receiver.send(Message("Wärme", "one <b>\ntwo", Tone.WARNING))
    assert outcome.accepted
    mail = email.message_from_bytes(got[0].content, policy=email.policy.default)
    assert mail["Subject"] == "Wärme"
    assert "one <b>\ntwo" in mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


async def test_an_error_status_is_the_reason_of_a_refusal(hook: Hook):
    hook.refuse = True
    outcome = await (await a_receiver(hook.url())).send(HELLO)
    assert (outcome.accepted, outcome.detail) == (False, "it answered with HTTP status 503")


async def test_nobody_there_is_the_reason_of_a_refusal(unused_tcp_port: int):
    outcome = await (await a_receiver(f"json://127.0.0.1:{unused_tcp_port}/")).send(HELLO)
    assert outcome.detail == "it cannot be reached, or did not answer in time"


async def test_a_redirect_does_not_count_as_told(hook: Hook):
    outcome = await (await a_receiver(hook.url("redirect"))).send(HELLO)
    assert not outcome.accepted
    assert hook.titles == []


async def test_the_timeout_of_the_settings_ends_a_hanging_send(hook: Hook):
    receiver = await a_receiver(hook.url("hang"), timeout=timedelta(milliseconds=100))
    async with asyncio.timeout(3):
        outcome = await receiver.send(HELLO)
    assert not outcome.accepted


class RootLog(logging.Handler):
    """What would reach the daemon's log. (pytest's own capture also listens where nothing propagates.)"""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record)


@pytest.fixture
def root_log() -> Iterator[RootLog]:
    handler = RootLog()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


async def test_a_bad_url_is_told_by_the_receivers_name_and_never_shown(root_log: RootLog):
    urls = {"ops": "json://127.0.0.1/", "chat": "nosuch://hunter2/token", "pager": "tgram://hunter2"}
    with pytest.raises(ConfigurationInvalid) as raised:
        await load(settings(*urls), urls)
    assert [line.partition(".url")[0] for line in str(raised.value).splitlines()] == [
        "notify.receivers[chat]",
        "notify.receivers[pager]",
    ]
    assert "hunter2" not in str(raised.value) + root_log.text


async def test_a_secret_in_the_url_reaches_no_log(
    hook: Hook, root_log: RootLog, capfd: pytest.CaptureFixture[str]
):
    hook.refuse = True
    await (await a_receiver(f"json://user:hunter2@127.0.0.1:{hook.port}/hunter2")).send(HELLO)
    await (await a_receiver("json://user:hunter2@127.0.0.1:1/hunter2")).send(HELLO)
    logging.getLogger("a sign of life").debug("that the handler listens")
    assert "that the handler listens" in root_log.text
    written = capfd.readouterr()
    assert "hunter2" not in root_log.text + written.out + written.err


# The dispatcher


async def test_what_is_recorded_is_told(history: History, hook: Hook):
    async with dispatching(history, {"ops": hook.url()}) as dispatcher:
        await record(history, Router(settings("ops"), {}), a_transition())
        dispatcher.wake()
        await until(lambda: hook.titles == ["Warning: about tank/a"])
    assert await states(history) == [DeliveryState.DELIVERED]


async def test_many_at_once_are_told_in_one_message(history: History, hook: Hook):
    await record(history, Router(settings("ops"), {}), *(a_transition(f"tank/{each}") for each in range(500)))
    async with dispatching(history, {"ops": hook.url()}):
        await until(lambda: bool(hook.titles))
    assert hook.titles == ["500 findings"]
    assert await history.backlog() == {}


async def test_a_refused_message_is_tried_again_until_it_is_accepted(history: History, hook: Hook):
    hook.refuse = True
    await record(history, Router(settings("ops"), {}), a_transition())
    async with dispatching(history, {"ops": hook.url()}) as dispatcher:
        await until(lambda: hook.refusals >= 3)
        [status] = dispatcher.status()
        assert (status.state, status.waiting) == (ReceiverState.FAILING, 1)
        assert status.last_error == "it answered with HTTP status 503"
        hook.refuse = False
        await until(lambda: dispatcher.status()[0].state is ReceiverState.OK)
    assert hook.titles == ["Warning: about tank/a"]


async def test_ten_receivers_that_hang_delay_no_other(history: History, hook: Hook):
    hanging = {f"hang{number}": hook.url("hang") for number in range(10)}
    urls = {**hanging, "ops": hook.url()}
    await record(history, Router(settings(*urls), {}), a_transition())
    async with dispatching(history, urls) as dispatcher:
        await until(lambda: len(hook.titles) == 11)
        await record(history, Router(settings("ops"), {}), a_transition("tank/b"))
        dispatcher.wake()
        await until(lambda: "Warning: about tank/b" in hook.titles)
        assert [each.state for each in dispatcher.status() if each.name == "ops"] == [ReceiverState.OK]
        hook.release.set()


async def test_a_receiver_that_hangs_gets_one_message_at_a_time(history: History, hook: Hook):
    router = Router(settings("ops"), {})
    await record(history, router, a_transition("tank/a"), a_transition("tank/b"))
    async with dispatching(history, {"ops": hook.url("hang")}) as dispatcher:
        await until(lambda: len(hook.titles) == 1)
        await record(history, router, a_transition("tank/c"))
        dispatcher.wake()
        await until(lambda: dispatcher.status()[0].waiting == 3)
        assert len(hook.titles) == 1
        hook.release.set()
        await until(lambda: len(hook.titles) == 3)


async def test_a_restart_neither_repeats_nor_loses(tmp_path: Path, hook: Hook):
    first = await History.open(tmp_path / "history", SystemClock())
    await record(first, Router(settings("ops"), {}), a_transition("tank/a"))
    async with dispatching(first, {"ops": hook.url()}):
        await until(lambda: hook.titles == ["Warning: about tank/a"])
    # Recorded, and the daemon ends before it is told.
    await record(first, Router(settings("ops"), await first.told()), a_transition("tank/b"))
    await first.close()

    second = await History.open(tmp_path / "history", SystemClock())
    router = Router(settings("ops"), await second.told())
    held = [
        Transition(msgspec.structs.replace(finding, state=State.HELD), State.OPEN, NOW)
        for finding in await second.open_findings()
    ]
    reopened = [
        Transition(msgspec.structs.replace(e.finding, state=State.OPEN), State.HELD, NOW) for e in held
    ]
    await record(second, router, *held, *reopened)
    async with dispatching(second, {"ops": hook.url()}):
        await until(lambda: len(hook.titles) >= 2)
    assert hook.titles == ["Warning: about tank/a", "Warning: about tank/b"]
    assert await second.backlog() == {}
    await second.close()


async def test_resolved_is_told_after_firing_though_both_waited(history: History, hook: Hook):
    await record(history, Router(settings("ops"), {}), a_transition(), resolved())
    async with dispatching(history, {"ops": hook.url()}):
        await until(lambda: len(hook.titles) == 2)
    assert hook.titles == ["Warning: about tank/a", "Resolved: about tank/a"]


async def test_resolved_is_not_told_where_firing_was_given_up(history: History, hook: Hook):
    router = Router(settings("ops"), {})
    await record(history, router, a_transition())
    [firing] = await history.pending_deliveries("ops")
    await history.dead([firing.id], NOW, "HTTP 500")
    await record(history, router, resolved(), a_transition("tank/b"))
    async with dispatching(history, {"ops": hook.url()}):
        await until(lambda: hook.titles == ["Warning: about tank/b"])
    assert await states(history) == [DeliveryState.DEAD, DeliveryState.DROPPED, DeliveryState.DELIVERED]


async def test_what_waits_for_a_receiver_that_is_gone_is_dropped(history: History, hook: Hook):
    await record(history, Router(settings("ops"), {}), a_transition())
    async with dispatching(history, {}):
        pass
    assert await states(history) == [DeliveryState.DROPPED]


async def test_draining_sends_what_is_due_and_waits_for_no_retry(history: History, hook: Hook):
    slow = Pace(retry_after=timedelta(hours=1), retry_within=timedelta(hours=1))
    urls = {"ops": hook.url(), "down": "json://127.0.0.1:1/"}
    await record(history, Router(settings(*urls), {}), a_transition())
    async with asyncio.timeout(5), dispatching(history, urls, slow) as dispatcher:
        await dispatcher.drain(timedelta(seconds=4))
    assert hook.titles == ["Warning: about tank/a"]
    assert await history.backlog() == {"down": 1}


async def test_draining_does_not_wait_longer_than_it_may(history: History, hook: Hook):
    await record(history, Router(settings("ops"), {}), a_transition())
    async with asyncio.timeout(4), dispatching(history, {"ops": hook.url("hang")}) as dispatcher:
        await until(lambda: bool(hook.titles))
        await dispatcher.drain(timedelta(milliseconds=50))
    assert await history.backlog() == {"ops": 1}
