"""Logs: one line for each event, as JSON for machines or in columns for people, and never a secret.

Libraries log through the standard library; their lines take the same way out,
so that there is one format, one level and one place where secrets are taken out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

# The last word of a key: `api_key` and `refresh_token` are secret, `key` and `tokens_used` are not.
_SECRET_KEY = re.compile(
    r"(^|[_\-. ])(api[_\-]?keys?|private[_\-]?key|pass(word|wd|phrase)?|secrets?|tokens?|credentials?"
    r"|authorization|cookie)$",
    re.IGNORECASE,
)

# Secrets by their look, for text that libraries write. What is kept says which secret it was.
_SECRET_TEXT = [
    # Apprise puts tokens anywhere in a URL of its own schemes, so only the scheme of those is told.
    (
        re.compile(r"\b(?!(?:https?|wss?|unix|file)://)([a-z][a-z0-9+.\-]*://)[^\s\"']+", re.IGNORECASE),
        r"\1{}",
    ),
    (re.compile(r"(://)[^/@\s]+@"), r"\1{}@"),
    (re.compile(r"(hooks\.slack\.com/services/|/api/webhooks/)[^\s\"']+"), r"\1{}"),
    (re.compile(r"([?&][^=&\s]*(?:key|token|secret|password)=)[^&\s\"']+", re.IGNORECASE), r"\1{}"),
    (re.compile(r"\b((?:Bearer|Basic|Token) )[A-Za-z0-9._~+/\-]{8,}=*", re.IGNORECASE), r"\1{}"),
    # A JSON Web Token, as ServiceAccounts have them.
    (re.compile(r"\beyJ[\w\-]+\.[\w\-]+\.[\w\-]*"), "{}"),
    # An API key of TrueNAS: its number and 64 characters.
    (re.compile(r"\b(\d+-)[A-Za-z0-9]{64}\b"), r"\1{}"),
]
_SECRETS = [(pattern, kept.format(REDACTED)) for pattern, kept in _SECRET_TEXT]

# These tell every request at info, where an operator wants a quiet week.
_TALKATIVE = ("aiohttp.access", "aiosqlite", "apprise", "asyncio", "kubernetes_asyncio", "urllib3")


def configure(
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 - the setting is called so
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send all logs to `stream` (stderr); may be called again, as when the configuration is reloaded."""
    out = stream if stream is not None else sys.stderr
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Loggers are made when modules are imported, and a reload has to reach them too.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_common(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendered(format, terminal=out.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take secrets out of an event: by the name of their key, and out of URLs and headers in any text."""
    return {key: _redacted(key, value) for key, value in event.items()}


def _redacted(key: str, value: Any) -> Any:
    if value is not None and _SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, Mapping):
        return {str(inner): _redacted(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    return value


def _without_secrets(text: str) -> str:
    for pattern, kept in _SECRETS:
        text = pattern.sub(kept, text)
    return text


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _rendered(format: str, *, terminal: bool) -> list[Processor]:  # noqa: A002
    if format == "json" or (format == "auto" and not terminal):
        return [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=str)]
    # Exceptions become text before redaction, for their messages may quote a URL.
    return [structlog.processors.format_exc_info, redact, structlog.dev.ConsoleRenderer(colors=terminal)]
