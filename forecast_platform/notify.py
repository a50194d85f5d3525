"""Telling people: of runs that failed, weeks that are late, files that were refused, and of each week's report.

What there is to tell is a question to the lake, so it does not matter which process failed or published. The table
`notices` remembers what was sent to whom: each thing is told once, and a failure again only after it had been mended.
Targets are the setting `notify`: mail (mailto:), Slack, or any webhook, which gets JSON and, where notify_secret is
set, its HMAC-SHA256 in the header X-Forecast-Signature; the body says when it was sent, so that an old one is known by
its age, and of a report it holds a summary for programs. A target that does not answer is tried a few times, then
named in `notices`; telling never fails the run that it tells of.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import logging
import smtplib
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from filelock import FileLock, Timeout

from forecast_platform.clouds.base import cloud_of
from forecast_platform.failures import without_secrets
from forecast_platform.history.lateness import ARRIVALS, arrivals, lateness
from forecast_platform.lake.lake import Lake
from forecast_platform.settings import Settings
from forecast_platform.weeks import key
from forecast_platform.words import PLAIN, Words

logger = logging.getLogger(__name__)

NEWS_DAYS = 7  # what is older is no news; so switching notify on does not tell of last year
TIMEOUT_SECONDS = 5.0
TRIES = 3  # of one sending, WAIT_SECONDS apart
WAIT_SECONDS = 0.5
MOST_ATTEMPTS = 5  # sendings of one notice to one target
TOLD_SINGLY = 3  # more of one kind at once become one message
SIGNATURE = "X-Forecast-Signature"


class NotSent(Exception):
    """A target did not take a notice; the message says why, without the target's secrets."""


@dataclass(frozen=True)
class Notice:
    """One thing to tell.

    Attributes:
        kind: failure, late, refusal, report or test.
        about: what it is about; kind and about together are told once to each target.
        text: what happened, for people. next_step: what to do about it. link: where to look.
        attachment: a page to go with a mail.
        summary: the same for programs, as JSON has it; webhooks get it.
        words: in which the rest is written.
    """

    kind: str
    about: str
    subject: str
    text: str
    next_step: str = ""
    link: str = ""
    attachment: Path | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    words: Words = PLAIN

    @property
    def body(self) -> str:
        step = self.words.gettext("Next: %(step)s", step=self.next_step) if self.next_step else ""
        parts = (self.text, step, self.link)
        return "\n\n".join(part for part in parts if part)


# ---------------------------------------------------------------------------------------------- what there is to tell


def news(lake: Lake, settings: Settings, now: dt.datetime) -> list[Notice]:
    """Everything of the last NEWS_DAYS that people are told of, most urgent first."""
    since, link = now - dt.timedelta(days=NEWS_DAYS), settings.dashboard_url.rstrip("/")
    words = settings.words
    found = [*_failures(lake, since, link, words), *_late(lake, now, link, words),
             *_refusals(lake, since, link, words)]  # fmt: skip
    return [*found, *_report(lake, settings, since, link)]


def _failures(lake: Lake, since: dt.datetime, link: str, words: Words) -> list[Notice]:
    rows = lake.query(
        """
        SELECT f.week, f.job, f.step, max(f.message) AS message, max(f.run_id) AS run_id,
               (SELECT count(*) FROM run_failures AS m WHERE m.job = f.job AND m.step = f.step
                AND m.week IS NOT DISTINCT FROM f.week AND m.mended_at IS NOT NULL) AS mended
        FROM open_failures AS f WHERE f.failed_at >= ? GROUP BY f.week, f.job, f.step ORDER BY max(f.failed_at) DESC
        """,
        [since],
    ).to_pylist()
    notices, _ = [], words.gettext
    for row in rows:
        values = {"run": row["run_id"], "job": row["job"], "step": row["step"] or row["job"], "message": row["message"]}
        if row["week"]:
            values["week"] = words.week(row["week"])
            subject = _("Failed: %(job)s of the week of %(week)s", **values)
            text = _("The run %(run)s (%(job)s) of the week of %(week)s failed at %(step)s:\n%(message)s", **values)
            command = f"forecast run --week {row['week']}"
            step = _("mend what it says, then: %(command)s", command=command)
        else:
            subject = _("Failed: %(job)s", **values)
            text = _("The run %(run)s (%(job)s) failed at %(step)s:\n%(message)s", **values)
            step = _("mend what it says, then run it again in Dagster's UI")
        about = f"{row['job']} {row['week']} {row['step']} {row['mended']}"
        notices.append(_notice(words, "failure", about, subject, text, step, link))
    return notices


def _late(lake: Lake, now: dt.datetime, link: str, words: Words) -> list[Notice]:
    late, _ = lateness(arrivals(lake.query(ARRIVALS).to_pylist()), now), words.gettext
    if late is None:
        return []
    step = _(
        "ask whoever delivers the sales; when the file is there: land it, or %(command)s",
        command="forecast import FILE",
    )
    said = late.text(words)
    text = _("%(late)s. Until then the newest forecast is that of %(week)s.", late=said[0].upper() + said[1:],
             week=words.week(late.newest))  # fmt: skip
    subject = _("Late: sales of the week of %(week)s", week=words.week(late.week))
    return [_notice(words, "late", key(late.week), subject, text, step, link)]


def _refusals(lake: Lake, since: dt.datetime, link: str, words: Words) -> list[Notice]:
    rows = lake.query(
        """
        SELECT l.source_key, l.source_version, l.status, l.rows, l.quarantined, l.message FROM landings AS l
        JOIN (SELECT source_key, max(landed_at) AS landed_at FROM landings GROUP BY source_key) AS n
          ON n.source_key = l.source_key AND n.landed_at = l.landed_at
        WHERE (l.status = 'refused' OR l.quarantined > 0) AND l.arrived_at >= ? ORDER BY l.arrived_at DESC
        """,
        [since],
    ).to_pylist()
    notices, _ = [], words.gettext
    for row in rows:
        values = {"file": row["source_key"], "some": words.number(row["quarantined"]), "all": words.number(row["rows"])}
        text = (
            _("%(file)s: refused.", **values)
            if row["status"] == "refused"
            else _("%(file)s: %(some)s of %(all)s rows were refused.", **values)
        ) + (f" {row['message']}" if row["message"] else "")
        see = f"{link}/runs"
        step = _("mend it and land it again; line by line: %(link)s", link=see)
        about, subject = f"{row['source_key']} {row['source_version']}", _("Refused: %(file)s", **values)
        notices.append(_notice(words, "refusal", about, subject, text, step, see))
    return notices


def _report(lake: Lake, settings: Settings, since: dt.datetime, link: str) -> list[Notice]:
    rows = lake.query(
        """
        SELECT f.forecast_week AS week, max(f.created_at) AS created_at,
               count(DISTINCT CASE WHEN f.level = 'series' THEN f.store || ' ' || f.dept END) AS series,
               sum(CASE WHEN f.level = 'total' THEN f.p50 END) AS total, max(f.horizon) AS weeks,
               max(CASE WHEN f.level = 'total' THEN f.model_version END) AS model_version
        FROM latest_forecast AS f GROUP BY f.forecast_week
        """
    ).to_pylist()
    if not rows or rows[0]["created_at"] is None or rows[0]["created_at"] < since:
        return []
    row = rows[0]
    week = row["week"]
    place, page = cloud_of(settings).kept(f"reports/{week}.html")
    if page and not page.exists():  # published a moment ago: its page follows, and the notice with it
        return []
    (without,) = lake.query("SELECT count(*) AS n FROM no_forecast WHERE forecast_week = ?", [week])["n"].to_pylist()
    words, _ = settings.words, settings.words.gettext
    text = _(
        "The forecast after the week of %(week)s is out: %(series)s series, %(sum)s in total over %(weeks)s; "
        "%(without)s series have a reason instead of a forecast. On one page: %(place)s",
        week=words.week(week), series=words.number(row["series"]), sum=words.cash(round(row["total"] or 0)),
        weeks=words.weeks(row["weeks"]), without=words.number(without), place=place,
    )  # fmt: skip
    files = {kind: cloud_of(settings).kept(f"exports/forecasts/{week}.{kind}")[0] for kind in ("csv", "parquet")}
    summary = {
        "week": key(week),
        "weeks_ahead": row["weeks"],
        "series": row["series"],
        "without_forecast": without,
        "total_p50": round(row["total"] or 0, 2),
        "model_version": row["model_version"],
        "published_at": row["created_at"].isoformat(timespec="seconds"),
        "files": {**files, "report": place},
    }
    subject = _("Sales forecast after the week of %(week)s", week=words.week(week))
    return [Notice("report", key(week), subject, text, "", f"{link}/?week={week}", page, summary)]


def _notice(words: Words, kind: str, about: str, subject: str, text: str, step: str, link: str) -> Notice:
    return Notice(kind, about, subject, text, step, link, words=words)


# ------------------------------------------------------------------------------------------------------------- telling


def tell_news(lake: Lake, settings: Settings, now: dt.datetime) -> list[str]:
    """Tell every target what it has not been told yet. Never raises.

    Returns:
        A line for each sending, for a log.
    """
    if not settings.notify:
        return []
    try:
        # One teller at a time in a home: another one under way tells the same.
        settings.home.mkdir(parents=True, exist_ok=True)
        with FileLock(settings.home / ".notify.lock", timeout=0):
            return _tell(lake, settings, news(lake, settings, now), now)
    except Timeout:
        return []
    except Exception as error:
        logger.error("nobody could be told: %s", without_secrets(str(error), settings.secrets))
        return []


def _tell(lake: Lake, settings: Settings, notices: Sequence[Notice], now: dt.datetime) -> list[str]:
    before = {(r["kind"], r["about"], r["target"]): r for r in lake.read("notices").to_pylist()}
    lines, rows = [], []
    for target in targets(settings):
        fresh = [
            n
            for n in notices
            if (row := before.get((n.kind, n.about, target.name))) is None
            or (row["told_at"] is None and row["attempts"] < MOST_ATTEMPTS)
        ]
        for group in _grouped(fresh):
            message, trouble = merged(group), ""
            try:
                target.send(message)
                lines.append(f"told {target.name}: {message.subject}")
            except NotSent as error:
                trouble = without_secrets(str(error), settings.secrets)
                lines.append(f"could not tell {target.name}: {trouble}")
                logger.warning(lines[-1])
            for notice in group:
                tried = before.get((notice.kind, notice.about, target.name), {"attempts": 0})
                rows.append(
                    {
                        "kind": notice.kind,
                        "about": notice.about,
                        "target": target.name,
                        "subject": notice.subject,
                        "tried_at": now,
                        "told_at": None if trouble else now,
                        "attempts": tried["attempts"] + 1,
                        "trouble": trouble or None,
                    }
                )
    if rows:
        _remember(lake, rows)
    return lines


def _remember(lake: Lake, rows: list[dict[str, Any]]) -> None:
    from pyiceberg.expressions import AlwaysTrue

    new = {(r["kind"], r["about"], r["target"]): r for r in lake.read("notices").to_pylist()}
    new |= {(r["kind"], r["about"], r["target"]): r for r in rows}
    table = pa.Table.from_pylist(list(new.values()), schema=lake.specs["notices"].schema)
    lake.replace("notices", AlwaysTrue(), table)


def _grouped(notices: Sequence[Notice]) -> Iterable[list[Notice]]:
    kinds: dict[str, list[Notice]] = {}
    for notice in notices:
        kinds.setdefault(notice.kind, []).append(notice)
    for same in kinds.values():
        yield from [same] if len(same) > TOLD_SINGLY else [[notice] for notice in same]


def merged(notices: Sequence[Notice]) -> Notice:
    """Several of one kind in one message, the first ten by name."""
    first = notices[0]
    if len(notices) == 1:
        return first
    words, _ = first.words, first.words.gettext
    lines = [f"- {notice.subject}" for notice in notices[:10]]
    lines += [_("and %(count)s more", count=words.number(len(notices) - 10))] if len(notices) > 10 else []
    text = "\n".join([*lines, "", _("The first of them:"), first.text])
    subject = _("%(subject)s, and %(count)s more", subject=first.subject, count=words.number(len(notices) - 1))
    return _notice(words, first.kind, "", subject, text, first.next_step, first.link)


# ------------------------------------------------------------------------------------------------------------- senders


@dataclass(frozen=True)
class Receiver:
    """Somebody to tell: a name without secrets, and a way to send, which raises NotSent."""

    name: str
    send: Callable[[Notice], None]

    def __repr__(self) -> str:
        return f"Receiver({self.name})"


def targets(settings: Settings) -> list[Receiver]:
    """The targets of the setting `notify`, in its order."""
    found = []
    for secret in settings.notify:
        address = secret.get_secret_value()
        if address.startswith("mailto:"):
            found.append(Receiver(address, _mailer(address.removeprefix("mailto:"), settings)))
            continue
        url = address.removeprefix("slack+")
        host = urlsplit(url).hostname or ""
        # Two webhooks of one host are told apart by a few digits of a digest, which give nothing away.
        digest = hashlib.sha256(address.encode()).hexdigest()[:6]
        slack = url != address or host == "hooks.slack.com"
        found.append(Receiver(f"{'slack' if slack else 'webhook'} {host} {digest}", _poster(url, slack, settings)))
    return found


def _poster(url: str, slack: bool, settings: Settings) -> Callable[[Notice], None]:
    def send(notice: Notice) -> None:
        content: dict[str, Any] = {"text": f"*{notice.subject}*\n{notice.body}"}
        if not slack:
            content = {
                name: getattr(notice, name) for name in ("kind", "about", "subject", "text", "next_step", "link")
            }
            content["summary"] = dict(notice.summary)
            content["sent_at"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        data = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "forecast-platform"}
        if (secret := settings.notify_secret.get_secret_value()) and not slack:
            headers[SIGNATURE] = f"sha256={hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()}"
        _tried(lambda: _post(urllib.request.Request(url, data, headers, method="POST")))  # noqa: S310 (http only)

    return send


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET that says 200 and tells nobody."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(request: urllib.request.Request) -> None:
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_SECONDS):
            return
    except urllib.error.HTTPError as error:
        text = f"it answered {error.code} {error.reason}"
        error.close()
        if error.code >= 500 or error.code == 429:
            raise ConnectionError(text) from None
        raise NotSent(f"{text}; is its address in the setting notify right?") from None
    except urllib.error.URLError as error:
        raise ConnectionError(str(error.reason)) from None


def _mailer(receiver: str, settings: Settings) -> Callable[[Notice], None]:
    server = urlsplit(settings.smtp_url)
    user, host = unquote(server.username or ""), server.hostname or ""
    password = settings.smtp_password.get_secret_value()
    sender = settings.smtp_from or (user if "@" in user else receiver)

    def once(message: EmailMessage) -> None:
        kind = smtplib.SMTP_SSL if server.scheme == "smtps" else smtplib.SMTP
        port = server.port or (465 if server.scheme == "smtps" else 587)
        try:
            with kind(host, port, timeout=TIMEOUT_SECONDS) as smtp:
                smtp.ehlo_or_helo_if_needed()
                if server.scheme == "smtp" and smtp.has_extn("starttls"):
                    smtp.starttls(context=ssl.create_default_context())
                elif server.scheme == "smtp" and user and not _loopback(host):
                    raise NotSent(f"{host} offers no STARTTLS, and a password is not sent in the open; use smtps://")
                if user:
                    smtp.login(user, password)
                smtp.send_message(message)
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPRecipientsRefused, smtplib.SMTPNotSupportedError) as error:
            reason = type(error).__name__.removeprefix("SMTP")
            raise NotSent(f"{host} refused it ({reason}); see smtp_url, smtp_password, smtp_from") from None
        except smtplib.SMTPResponseException as error:
            refusal = f"{host} answered {error.smtp_code}"
            raise (NotSent if error.smtp_code >= 500 else ConnectionError)(refusal) from None
        except smtplib.SMTPException as error:
            raise ConnectionError(f"{host}: {type(error).__name__}") from None

    def send(notice: Notice) -> None:
        message = EmailMessage()
        message["Subject"] = " ".join(notice.subject.split())  # a line break would begin another header
        message["From"], message["To"] = sender, receiver
        message.set_content(notice.body)
        if notice.attachment and notice.attachment.exists():
            page = notice.attachment.read_text()
            message.add_attachment(page, subtype="html", filename=notice.attachment.name)
        _tried(lambda: once(message))

    return send


def _loopback(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


def _tried(send: Callable[[], None]) -> None:
    """Send, again where the other side may be better in a moment."""
    for attempt in range(1, TRIES + 1):
        try:
            return send()
        except (OSError, socket.gaierror) as error:
            if attempt == TRIES:
                raise NotSent(f"{error} (tried {TRIES} times)") from None
            time.sleep(WAIT_SECONDS * attempt)
