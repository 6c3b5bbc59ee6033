"""What comes out when something is logged."""

import io
import json
import logging

import pytest
import structlog

from truetally import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_without_a_terminal_each_event_is_one_line_of_json():
    out = io.StringIO()
    logs.configure("auto", "info", out)
    structlog.get_logger("truetally.test").info("source listed", source="nas1", count=412)
    [line] = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "source listed",
        "source": "nas1",
        "count": 412,
        "level": "info",
        "logger": "truetally.test",
    }


@pytest.mark.parametrize(("stream", "coloured"), [(io.StringIO, False), (Terminal, True)])
def test_the_console_has_colours_on_a_terminal_only(stream, coloured):
    out = stream()
    logs.configure("console", "info", out)
    structlog.get_logger().info("source listed")
    assert "source listed" in out.getvalue()
    assert ("\x1b[" in out.getvalue()) is coloured


def test_auto_on_a_terminal_is_for_people():
    out = Terminal()
    logs.configure("auto", "info", out)
    structlog.get_logger().info("source listed")
    assert not out.getvalue().startswith("{")


def test_less_than_the_level_is_left_out():
    out = io.StringIO()
    logs.configure("json", "warning", out)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


def test_libraries_take_the_same_way_out():
    out = io.StringIO()
    logs.configure("json", "info", out)
    logging.getLogger("some.library").warning("retrying %s", "soon")
    [line] = lines(out)
    assert (line["event"], line["level"], line["logger"]) == ("retrying soon", "warning", "some.library")


def test_talkative_libraries_are_heard_from_warning_on():
    out = io.StringIO()
    logs.configure("json", "debug", out)
    logging.getLogger("aiohttp.access").info("GET /")
    assert out.getvalue() == ""


def test_a_logger_that_exists_already_follows_a_new_configuration():
    log = structlog.get_logger("early")
    first, second = io.StringIO(), io.StringIO()
    logs.configure("json", "info", first)
    log.info("one")
    logs.configure("json", "debug", second)
    log.debug("two")
    assert [line["event"] for line in lines(first)] == ["one"]
    assert [line["event"] for line in lines(second)] == ["two"]


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "apikey",
        "x-api-key",
        "token",
        "refresh_token",
        "password",
        "client_secret",
        "Authorization",
    ],
)
def test_what_a_secret_key_holds_is_taken_out(key):
    assert logs.redact(None, "info", {key: "hunter2"}) == {key: "[redacted]"}


@pytest.mark.parametrize("key", ["key", "tokens_used", "secret_file", "author", "fingerprint", "kind"])
def test_what_only_resembles_a_secret_key_stays(key):
    assert logs.redact(None, "info", {key: "value"}) == {key: "value"}


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@nas1/api",
        "could not send to mailto://me:hunter2@example.com?to=you",
        "slack://hunter2/B1/C1",
        "https://hooks.slack.com/services/hunter2/B/C",
        "GET https://nas1/x?a=b&api_key=hunter2",
        "Authorization: Bearer hunter2hunter2",
        "eyJhbGciOi.hunter2.c2ln",
        "login with 12-" + "hunter2" * 9 + "x",
    ],
)
@pytest.mark.parametrize(
    "form", [lambda text: text, lambda text: [text], lambda text: {"inner": {"deeper": text}}]
)
def test_a_secret_within_text_is_taken_out(text, form):
    redacted = logs.redact(None, "info", {"event": "x", "detail": form(text)})
    assert "hunter2" not in str(redacted)
    assert "[redacted]" in str(redacted)


@pytest.mark.parametrize(
    "text",
    ["wss://nas1.example.com/api/current", "tank/k8s/pvc-1@snapshot-2", "iqn.2005-10.org.x:pvc-1", "a://"],
)
def test_text_without_a_secret_stays(text):
    assert logs.redact(None, "info", {"event": text}) == {"event": text}


def test_a_secret_in_the_message_of_an_exception_is_taken_out():
    out = io.StringIO()
    logs.configure("json", "info", out)
    error = RuntimeError("cannot open json://me:hunter2@host")
    structlog.get_logger().error("sending failed", exc_info=error)
    [line] = lines(out)
    assert "RuntimeError" in line["exception"]
    assert "hunter2" not in out.getvalue()
