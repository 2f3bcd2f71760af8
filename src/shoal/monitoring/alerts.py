"""Telling people: a webhook or a mail for each window in which alarms opened or closed.

Delivery is at least once: an alert carries an id that stays the same when it is sent again, as the
``Idempotency-Key`` header and the mail's ``Message-ID``.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from typing import Any

from shoal.errors import Unavailable

__all__ = ["Alert", "Delivery", "deliver"]

_TRIES = 4
_TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True)
class Alert:
    """What is to be said of one window of one model.

    Attributes:
        id: The same whenever this window's alert is sent.
        model: The registered model.
        window: The number of the window.
        text: One line.
        opened: How many alarms opened.
        closed: How many closed.
        worst: The gravest that opened: check, segment, column, effect and score.
    """

    id: str
    model: str
    window: int
    text: str
    opened: int
    closed: int
    worst: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Where alerts go.

    Attributes:
        webhook: URL that gets each alert as JSON by POST; None for none.
        to: Mail addresses.
        sender: The mail's sender.
        host: SMTP server.
        port: Its port; 465 speaks TLS from the start, others are asked for STARTTLS.
        user: Login name; None for none.
        password: Its password.
        plain: Send although the server has no TLS; only for a server on this machine.
    """

    webhook: str | None = None
    to: tuple[str, ...] = ()
    sender: str = "shoal@localhost"
    host: str = "localhost"
    port: int = 25
    user: str | None = None
    password: str | None = None
    plain: bool = False

    def __repr__(self) -> str:
        # A webhook's URL is a secret, too.
        return f"Delivery(webhook={bool(self.webhook)}, to={self.to!r}, host={self.host!r})"


def deliver(alert: Alert, where: Delivery, *, wait: Callable[[float], None] = time.sleep) -> None:
    """Sends an alert everywhere.

    Args:
        alert: What.
        where: Where to.
        wait: Waits between tries.

    Raises:
        Unavailable: A receiver did not take it after several tries, or refuses it.
    """
    if where.webhook:
        _post(alert, where.webhook, wait)
    if where.to:
        _mail(alert, where)


def _post(alert: Alert, url: str, wait: Callable[[float], None]) -> None:
    body = json.dumps({"source": "shoal", **asdict(alert)}, default=str).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": alert.id}
    if not url.startswith(("https://", "http://")):
        raise Unavailable("The webhook of [alerts] is no http(s) URL.", hint="Mend shoal.toml.")
    for attempt in range(_TRIES):
        request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 (checked)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            error.close()
            why, again = f"it answered {error.code}", error.code == 429 or error.code >= 500
        except OSError as error:
            why, again = str(getattr(error, "reason", error)), True
        if not again:
            break
        if attempt + 1 < _TRIES:
            wait(0.5 * 2**attempt)
    raise Unavailable(
        f"The webhook did not take the alert of '{alert.model}': {why}.",
        hint="It is kept in shoal.alerts and sent again by the next: shoal monitor",
    )


def _mail(alert: Alert, where: Delivery) -> None:
    import smtplib
    import ssl

    message = EmailMessage()
    message["Subject"] = alert.text
    message["From"], message["To"] = where.sender, ", ".join(where.to)
    message["Message-ID"] = f"<{alert.id}@shoal>"
    lines = [alert.text, ""]
    lines += [
        f"{part['check']:<10} {part['segment']} {part['column'] or ''} effect {part['effect']:.2f}"
        for part in alert.worst
    ]
    message.set_content("\n".join(lines))
    secure = ssl.create_default_context()
    try:
        if where.port == 465:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                where.host, where.port, timeout=_TIMEOUT, context=secure
            )
        else:
            server = smtplib.SMTP(where.host, where.port, timeout=_TIMEOUT)
        with server:
            if where.port != 465 and not where.plain:
                server.starttls(context=secure)
            if where.user:
                server.login(where.user, where.password or "")
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise Unavailable(
            f"The mail server {where.host}:{where.port} did not take the alert of "
            f"'{alert.model}': {error}.",
            hint="It is kept in shoal.alerts and sent again by the next: shoal monitor",
        ) from error
