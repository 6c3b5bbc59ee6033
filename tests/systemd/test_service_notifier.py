"""Does systemd hear what the daemon tells it?"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from truetally.service import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A notify socket as systemd opens it, and the address it hands down."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@truetally-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        listening.settimeout(5)
        yield listening, address


def test_every_step_of_the_life_reaches_the_service_manager(manager):
    listening, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.ready("watching 2 sources")
    notifier.watchdog()
    notifier.status("nas1 is away")
    notifier.reloading(12.5)
    notifier.stopping("draining")
    assert [listening.recv(4096).decode() for _ in range(5)] == [
        "READY=1\nSTATUS=watching 2 sources",
        "WATCHDOG=1",
        "STATUS=nas1 is away",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_a_status_cannot_smuggle_in_another_assignment(manager):
    listening, address = manager
    Notifier(address).status("away\nMAINPID=1")
    assert listening.recv(4096) == b"STATUS=away MAINPID=1"


def test_without_a_service_manager_nothing_happens():
    notifier = Notifier.from_environment({"WATCHDOG_USEC": "2000000"})
    with capture_logs() as logged:
        notifier.ready("watching")
    assert (notifier.watchdog_every, logged) == (None, [])


def test_a_service_manager_that_is_gone_is_no_crash(tmp_path):
    with capture_logs() as logged:
        Notifier(str(tmp_path / "gone")).ready("watching")
    assert [entry["event"] for entry in logged] == ["service manager not told"]


def test_an_address_of_another_family_is_said_to_be_unusable():
    with capture_logs() as logged:
        Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("watching")
    assert [entry["event"] for entry in logged] == ["notify socket not usable"]


@pytest.mark.parametrize(
    ("environ", "every"),
    [
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, timedelta(seconds=30)),
        ({"WATCHDOG_USEC": "60000000"}, timedelta(seconds=30)),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_the_time_it_allows_and_only_by_whom_it_watches(environ, every):
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify", **environ}, pid=7)
    assert notifier.watchdog_every == every
