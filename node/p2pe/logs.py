"""Log set-up, for the node and the bootstrap node: structlog, to standard error.

People get coloured lines on a terminal, machines get one JSON object a line. What a message says, who a contact is
and any key or code never belong in a log: callers don't pass them, and `_redact` blanks the well-known field names
should one slip in.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from p2pe.errors import UsageError

_PRIVATE_FIELDS: Final = frozenset(
    {
        "text", "body", "content", "name", "contact", "contact_name", "petname", "to", "code", "link", "words",
        "secret", "password", "passphrase", "key", "identity_key", "root_seed", "pair_secret", "psk",
    }
)  # fmt: skip
_NOISY_LOGGERS: Final = ("libp2p", "multiaddr", "hypercorn", "trio", "asyncio", "async_service", "httpx")

Event = MutableMapping[str, Any]


def _redact(_logger: object, _method: str, event: Event) -> Event:
    for field, value in event.items():
        if field in _PRIVATE_FIELDS:
            event[field] = "[redacted]"
        elif isinstance(value, str) and not value.isprintable():  # an address or error may quote a stranger
            event[field] = repr(value)
    return event


def set_up_logging(level: str = "info", *, json_lines: bool | None = None) -> None:
    """Sends all logs to standard error.

    `level` is debug, info, warning or error. `json_lines` None picks JSON unless standard error is a terminal.
    Call it before libp2p is imported: with LIBP2P_DEBUG set, libp2p would write log files of its own.
    Raises UsageError for an unknown level.
    """
    numbers = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    if level not in numbers:
        raise UsageError(f"--log-level is {level!r}; choose one of {', '.join(numbers)}")
    os.environ.pop("LIBP2P_DEBUG", None)
    terminal = sys.stderr.isatty()
    as_json = not terminal if json_lines is None else json_lines
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _redact,
    ]
    if as_json:
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=terminal and "NO_COLOR" not in os.environ,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(numbers[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _quieten_libraries()


def _quieten_libraries() -> None:
    """Libraries log peer addresses and stack traces for what we treat as everyday events; some use the root logger."""
    root = logging.getLogger()
    root.handlers = [logging.NullHandler()]
    root.setLevel(logging.CRITICAL)
    for name in _NOISY_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
        logger.propagate = True
