"""Sending a message to a target, one try. Addresses come from the routes file only: no redirect, proxy or netrc is
followed; secrets are in no error. A try has a time for all of it, and reads no more of an answer than it shows.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from functools import cache
from typing import Final, Protocol

import httpx

from alarm.routes import letter
from alarm.routes.apprised import Threaded, apprise_notify
from alarm.routes.model import Target
from alarm.routes.outcome import SAID_CHARS_MAX, Outcome, failed, of_status
from meterwatch.alarms import Alarm
from meterwatch.notices import Parcel

RENEWED_MAX: Final = 500
"""Alerts in one request that renews them."""
_JSON: Final = "application/json"
_EVENT: Final = "application/cloudevents+json; charset=utf-8"


class Sender(Protocol):
    """One target. No method raises because of what the target does."""

    async def send(self, parcel: Parcel, now_us: int) -> Outcome: ...

    async def close(self) -> None: ...


class Http:
    """POST to one address."""

    def __init__(self, url: str, bearer: str, timeout_s: float) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every address, which may hold a token
        self._url = url
        self._secrets = [text for text in (url, bearer) if text]
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=_trusted(),
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            headers={"authorization": f"Bearer {bearer}"} if bearer else {},
        )

    async def post(self, body: bytes, headers: dict[str, str]) -> Outcome:
        """One try."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                said = b""
                if not response.is_success:
                    async for part in response.aiter_raw():
                        said += part
                        if len(said) > SAID_CHARS_MAX:
                            break
                outcome = of_status(response.status_code, response.headers.get("retry-after", ""), said)
        except (TimeoutError, httpx.TimeoutException):
            return failed(f"no answer within {self._timeout_s:g} s")
        except httpx.ConnectError:
            return failed("no connection; nobody listens there, or the name or certificate is wrong")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            return failed(f"the connection broke ({type(error).__name__})")
        for secret in self._secrets:
            outcome = Outcome(outcome.state, outcome.text.replace(secret, "***"), outcome.retry_after_s)
        return outcome

    async def close(self) -> None:
        await self._client.aclose()


class Webhook:
    """Signed CloudEvents."""

    def __init__(self, target: Target, log_id: str, link: str) -> None:
        self._http = Http(target.url, target.bearer, target.timeout_s)
        self._secret, self._log_id, self._link = target.secret, log_id, link

    async def send(self, parcel: Parcel, now_us: int) -> Outcome:
        body = letter.cloud_event(parcel, self._log_id, self._link)
        id_, at_s = letter.message_id(self._log_id, parcel.delivery.number), now_us // 1_000_000
        headers = {
            "content-type": _EVENT,
            "webhook-id": id_,
            "webhook-timestamp": str(at_s),
            "webhook-signature": letter.signature(self._secret, id_, at_s, body),
        }
        return await self._http.post(body, headers)

    async def close(self) -> None:
        await self._http.close()


class Alertmanager:
    """Alerts to Alertmanager's v2 API."""

    def __init__(self, target: Target, log_id: str, link: str) -> None:
        url = target.url.rstrip("/")
        self._http = Http(
            url if url.endswith("/api/v2/alerts") else url + "/api/v2/alerts", target.bearer, target.timeout_s
        )
        self._log_id, self._link, self.resend_s = log_id, link, target.resend_s

    async def send(self, parcel: Parcel, now_us: int) -> Outcome:
        body = letter.alerts(parcel, self._log_id, self._link, now_us, self.resend_s)
        return await self._http.post(body, {"content-type": _JSON})

    async def renew(self, alarms: list[Alarm], now_us: int) -> bool:
        """Send active alerts again before they end there. False: it failed."""
        body = letter.renewed(alarms, self._link, now_us, self.resend_s)
        return not (await self._http.post(body, {"content-type": _JSON})).text

    async def close(self) -> None:
        await self._http.close()


class People:
    """Texts through apprise."""

    def __init__(self, target: Target, link: str, notify: Threaded) -> None:
        self._link, self._notify = link, notify

    async def send(self, parcel: Parcel, now_us: int) -> Outcome:
        return await self._notify.send(*letter.text(parcel, self._link))

    async def close(self) -> None:
        return None


def sender_of(target: Target, log_id: str, link: str) -> Sender:
    """Who sends to a target."""
    match target.kind:
        case "webhook":
            return Webhook(target, log_id, link)
        case "alertmanager":
            return Alertmanager(target, log_id, link)
        case _:
            return People(target, link, Threaded(apprise_notify(target.url), target.timeout_s))


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates the machine trusts."""
    return ssl.create_default_context()
