"""What a message says, by kind of target: a CloudEvent, alerts for Alertmanager, a text for people.

The CloudEvent and the text depend on the message alone, so every try sends the same bytes under the same id. Alerts
also carry when they end, which is the machine's time of the try. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from alarm.routes.faces import active
from meterwatch.alarms import Alarm
from meterwatch.episodes import Severity
from meterwatch.notices import Item, Parcel

EVENT_TYPE: Final = "meterwatch.alarms.v1"
ENDS_AFTER: Final = 4
"""An active alert ends by itself after so many times resend_s. (practice of Prometheus)"""
TITLE_CHARS_MAX: Final = 160
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN: Final = (
    "alarm_id", "asset_kind", "asset", "feeder", "district", "level", "version", "parent_id", "summary", "evidence",
    "acknowledged_by", "note", "assigned_to", "shelved_by", "shelved_reason", "out_of_service_by",
    "out_of_service_reason", "for_planning",
)  # fmt: skip
_TIMES: Final = ("onset", "raised", "cleared", "recorded", "acknowledged", "shelved_until")


def message_id(log_id: str, number: int) -> str:
    """Stable id of a message: the same for every try, another for every message of every database."""
    return f"{log_id}/{number}"


def cloud_event(parcel: Parcel, log_id: str, link: str) -> bytes:
    """A CloudEvent 1.0 in structured JSON; docs/routes.md shows its fields."""
    one = parcel.delivery
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": message_id(log_id, one.number),
        "source": f"/meterwatch/{log_id}",
        "type": EVENT_TYPE,
        "subject": one.group or one.department or one.target,
        "time": rfc3339(one.made_us),
        "datacontenttype": "application/json",
        "data": {
            "department": one.department,
            "route": one.route,
            "step": one.step,
            "group": one.group,
            "alarms": [_alarm(item, alarm) for item, alarm in parcel.alarms],
            "more": len(one.items) - len(parcel.alarms),
            "more_alarm_ids": [item.alarm_id for item in one.items if not item.shown],
            "waiting": one.waiting,
            "link": link,
            "made_at": rfc3339(one.made_us),
            "queued_at": rfc3339(parcel.queued_us),
        },
    }
    return orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS)


def signature(secret: str, id_: str, timestamp_s: int, body: bytes) -> str:
    """Value of webhook-signature: HMAC-SHA256 of 'id.timestamp.body', as Standard Webhooks has it."""
    signed = f"{id_}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def alerts(parcel: Parcel, log_id: str, link: str, now_us: int, resend_s: int) -> bytes:
    """The body of POST /api/v2/alerts. A severity other than the one told ends the alert that had it."""
    found = []
    for item, alarm in parcel.alarms:
        if item.was_severity is not None and item.was_severity != alarm.severity:
            found.append(_alert(alarm, item.was_severity, link, now_us, now_us))
        over = not active(alarm.state, alarm.stands)
        ends_us = min(alarm.cleared_us or now_us, now_us) if over else now_us + ENDS_AFTER * resend_s * 1_000_000
        found.append(_alert(alarm, alarm.severity, link, ends_us, now_us))
        found[-1]["annotations"]["message_id"] = message_id(log_id, parcel.delivery.number)
    return orjson.dumps(found)


def renewed(alarms: Iterable[Alarm], link: str, now_us: int, resend_s: int) -> bytes:
    """Active alerts once more, with a later end."""
    ends_us = now_us + ENDS_AFTER * resend_s * 1_000_000
    return orjson.dumps([_alert(alarm, alarm.severity, link, ends_us, now_us) for alarm in alarms])


def text(parcel: Parcel, link: str) -> tuple[str, str]:
    """Title and body for people."""
    one = parcel.delivery
    lines = [_line(item, alarm) for item, alarm in parcel.alarms]
    more = len(one.items) - len(lines) + one.waiting
    if more:
        lines.append(f"and {more} more" + (f", see {link}" if link else "; meterwatch alarms list shows them"))
    elif link:
        lines.append(link)
    counts = Counter(item.change for item in one.items)
    title = ", ".join(f"{count} {change.lower()}" for change, count in counts.items())
    if len(one.items) == 1 and parcel.alarms:
        title = _headline(*parcel.alarms[0])
    elif one.group:
        title += f": {one.group}"
    return title[:TITLE_CHARS_MAX], "\n".join(lines)


def rfc3339(us: int) -> str:
    """2026-01-31T12:15:00.000000Z."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _headline(item: Item, alarm: Alarm) -> str:
    return f"{item.change} {Severity(alarm.severity).name} {alarm.rule} {alarm.asset_kind} {alarm.asset}"


def _line(item: Item, alarm: Alarm) -> str:
    place = ", ".join(
        f"{what} {name}" for what, name in (("feeder", alarm.feeder), ("district", alarm.district)) if name
    )
    when = f"since {rfc3339(alarm.onset_us)[:19]}Z"
    if alarm.cleared_us is not None:
        when += f" until {rfc3339(alarm.cleared_us)[:19]}Z"
    acknowledged = f", acknowledged by {alarm.acknowledged_by}" if alarm.acknowledged_by else ""
    return f"{_headline(item, alarm)} ({place or 'no place'}), {alarm.state}, {when}{acknowledged}: {alarm.summary}"


def _alarm(item: Item, alarm: Alarm) -> dict[str, Any]:
    """An alarm in a CloudEvent: names of the alarms table, times as text, severity by name."""
    row: dict[str, Any] = {"change": item.change.value, "seq": item.seq, "type": alarm.rule}
    row |= {"state": alarm.state.value, "severity": Severity(alarm.severity).name}
    row |= {name: getattr(alarm, name) for name in _PLAIN}
    for name in _TIMES:
        us = getattr(alarm, f"{name}_us")
        row[f"{name}_at"] = None if us is None else rfc3339(us)
    return row


def _alert(alarm: Alarm, severity: Severity, link: str, ends_us: int, now_us: int) -> dict[str, Any]:
    own = {
        "alertname": alarm.rule,
        "alarm_id": alarm.alarm_id,
        "asset_kind": alarm.asset_kind,
        "asset": alarm.asset,
        "feeder": alarm.feeder,
        "district": alarm.district,
        "severity": Severity(severity).name.lower(),
    }
    labels = {**alarm.labels, **{name: value for name, value in own.items() if value}}
    annotations = {
        "summary": alarm.summary,
        "level": alarm.level,
        "state": alarm.state.value,
        "acknowledged_by": alarm.acknowledged_by or "",
    }
    alert: dict[str, Any] = {
        "labels": labels,
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": rfc3339(min(alarm.onset_us, ends_us, now_us)),  # a later one than the end is refused
        "endsAt": rfc3339(ends_us),
    }
    return alert | ({"generatorURL": link} if link else {})


def _key(secret: str) -> bytes:
    """whsec_ and base64, or the text itself."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
