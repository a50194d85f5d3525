"""People are told once, by mail, Slack and webhooks: real servers on loopback take what is sent."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from forecast_platform import notify
from forecast_platform.cli import main
from forecast_platform.failures import Failure, Run, record_failures, record_success
from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.notify import Notice, NotSent, targets, tell_news
from forecast_platform.settings import Settings, get_settings

NOW = dt.datetime(2025, 2, 3, 7, tzinfo=dt.UTC)
WEEK = dt.date(2025, 1, 31)
NOTICE = Notice("failure", "a", "Failed: a\nweek", "what happened", "what to do", "http://127.0.0.1:8050")


class Webhook:
    """A server that keeps what it gets, and answers with the statuses it is given, the last one for ever."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers = [200]
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.got.append((dict(self.headers), body))
                self.send_response(webhook.answers[min(len(webhook.got), len(webhook.answers)) - 1])
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/T0/hunter2"

    def texts(self) -> list[dict[str, str]]:
        return [json.loads(body) for _, body in self.got]


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a sender needs: AUTH PLAIN, one receiver, dot-stuffing."""

    def handle(self) -> None:
        server: Any = self.server
        self.say("220 here")
        lines: list[str] = []
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            verb = line.split()[0].upper()
            if verb == "EHLO":
                self.say("250-here\r\n250 AUTH PLAIN")
            elif verb == "AUTH":
                server.logins.append(base64.b64decode(line.split()[2]).decode().split("\0")[1:])
                self.say("235 in" if server.logins[-1][1] == server.password else "535 no")
            elif verb == "RCPT" and "nobody" in line:
                self.say("550 no such user")
            elif verb == "DATA":
                self.say("354 go on")
                while (line := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    lines.append(line.removeprefix("."))
                server.mails.append("\n".join(lines))
                self.say("250 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(notify, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(notify, "TIMEOUT_SECONDS", 2.0)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    with serving(made.server):
        yield made


@pytest.fixture
def mail() -> Iterator[Any]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    server.daemon_threads = True
    server.mails, server.logins, server.password = [], [], "hunter2"
    with serving(server):
        yield server


def only(settings: Settings) -> notify.Receiver:
    (target,) = targets(settings)
    return target


# ------------------------------------------------------------ sending


def test_a_webhook_gets_signed_json(home, webhook):
    only(Settings(notify=webhook.url, notify_secret="key")).send(NOTICE)
    ((headers, body),) = webhook.got
    assert headers[notify.SIGNATURE] == "sha256=" + hmac.new(b"key", body, hashlib.sha256).hexdigest()
    content = json.loads(body)
    assert content.items() >= {"kind": "failure", "text": "what happened", "next_step": "what to do"}.items()
    assert content["summary"] == {}
    # Signed with the body: a message sent again later is known by its age.
    assert abs(dt.datetime.fromisoformat(content["sent_at"]) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def test_slack_gets_a_text_and_no_signature(home, webhook):
    only(Settings(notify=f"slack+{webhook.url}", notify_secret="key")).send(NOTICE)
    ((headers, body),) = webhook.got
    text = json.loads(body)["text"]
    assert list(json.loads(body)) == ["text"]
    assert all(part in text for part in ("*Failed", "what happened", "Next: what to do", "http://127.0.0.1:8050"))
    assert notify.SIGNATURE not in headers


@pytest.mark.parametrize(
    ("answers", "times", "sent"),
    [
        ([200], 1, True),
        ([500, 503, 204], 3, True),
        ([429, 200], 2, True),
        ([500], 3, False),
        ([404], 1, False),
        ([302], 1, False),
    ],
)
def test_what_may_be_better_in_a_moment_is_tried_again(home, webhook, answers, times, sent):
    webhook.answers = answers
    target = only(Settings(notify=webhook.url))
    if sent:
        target.send(NOTICE)
    else:
        with pytest.raises(NotSent, match=str(answers[0])) as error:
            target.send(NOTICE)
        assert "hunter2" not in str(error.value)
    assert len(webhook.got) == times


def test_nobody_there(home, webhook):
    webhook.server.server_close()
    with pytest.raises(NotSent, match="tried 3 times"):
        only(Settings(notify=webhook.url)).send(NOTICE)


def test_a_mail_has_subject_text_and_the_page(home, mail, tmp_path):
    page = tmp_path / "2025-01-31.html"
    page.write_text("<h1>Die Woche für alle</h1>")
    port = mail.server_address[1]
    settings = Settings(
        notify="mailto:me@here.example",
        smtp_url=f"smtp://robot%40here.example@127.0.0.1:{port}",
        smtp_password="hunter2",
    )
    only(settings).send(Notice("report", "a", "The week\nBcc: all@here.example", "text", "", "", page))
    assert mail.logins == [["robot@here.example", "hunter2"]]
    (text,) = mail.mails
    message = message_from_bytes(text.encode(), policy=policy.default)
    assert message["Subject"] == "The week Bcc: all@here.example"
    assert (message["From"], message["To"], message["Bcc"]) == ("robot@here.example", "me@here.example", None)
    (attached,) = message.iter_attachments()
    assert (attached.get_filename(), "für alle" in attached.get_content()) == ("2025-01-31.html", True)


@pytest.mark.parametrize(
    ("receiver", "password", "why"),
    [("me@here.example", "wrong", "AuthenticationError"), ("nobody@here.example", "hunter2", "RecipientsRefused")],
)
def test_a_mail_that_is_refused_says_which_setting_to_look_at(home, mail, receiver, password, why):
    port = mail.server_address[1]
    settings = Settings(notify=f"mailto:{receiver}", smtp_url=f"smtp://r@127.0.0.1:{port}", smtp_password=password)
    with pytest.raises(NotSent, match=f"{why}.*smtp_password") as error:
        only(settings).send(NOTICE)
    assert password not in str(error.value)
    assert mail.mails == []


def test_names_of_targets_hold_no_secrets(home):
    settings = Settings(
        notify="https://hooks.slack.com/services/T0/B0/hunter2,https://a.example/hunter2,https://a.example/x,mailto:a@b.c",
        smtp_url="smtp://b.c",
    )
    names = [target.name for target in targets(settings)]
    assert [name.rpartition(" ")[0] or name for name in names] == [
        "slack hooks.slack.com",
        "webhook a.example",
        "webhook a.example",
        "mailto:a@b.c",
    ]
    assert len(set(names)) == 4
    assert "hunter2" not in f"{names}{targets(settings)}"


# ------------------------------------------------------------ what there is to tell


def land(
    lake: Lake, key: str, status: str = "ingested", quarantined: int = 0, week: dt.date = WEEK, at: dt.datetime = NOW
) -> None:
    row = {"source_key": key, "source_version": key, "landed_at": at, "arrived_at": at, "kind": "sales"}
    row |= {
        "status": status,
        "rows": 9,
        "accepted": 9 - quarantined,
        "quarantined": quarantined,
        "message": "no column",
    }
    row |= {"first_week": week, "last_week": week}
    rows = pa.Table.from_pylist([row], schema=lake.specs["landings"].schema)
    lake.replace("landings", any_of("source_key", [key]), rows)


def publish(lake: Lake, home: Path, page: bool = True) -> None:
    rows = [
        {"forecast_week": WEEK, "level": level, "store": "1", "dept": "1", "horizon": 1, "p50": 5.0, "created_at": NOW}
        for level in ("series", "total")
    ]
    lake.replace_weeks("forecasts", [WEEK], pa.Table.from_pylist(rows, schema=lake.specs["forecasts"].schema))
    if page:
        (home / "reports").mkdir(parents=True, exist_ok=True)
        (home / "reports" / f"{WEEK}.html").write_text("<h1>page</h1>")


def fail(lake: Lake, run_id: str = "r1", week: dt.date = WEEK, at: dt.datetime = NOW) -> None:
    record_failures(lake, Run(run_id, "weekly_forecast", (week,)), [Failure("deepar_model", "too few rows")], at)


def test_each_kind_is_told_once(home, lake, webhook):
    settings = Settings(notify=webhook.url, dashboard_url="http://dash.example")
    fail(lake)
    land(lake, "sales/bad.csv", "refused", 9)
    publish(lake, home)
    assert len(tell_news(lake, settings, NOW)) == 3
    found = {text["kind"]: text for text in webhook.texts()}
    assert "too few rows" in found["failure"]["text"]
    assert f"forecast run --week {WEEK}" in found["failure"]["next_step"]
    assert "no column" in found["refusal"]["text"]
    assert found["report"]["link"] == f"http://dash.example/?week={WEEK}"
    assert "1 series, 5 in total over 1 week;" in found["report"]["text"]
    summary = found["report"]["summary"]
    assert summary.items() >= {"week": str(WEEK), "series": 1, "total_p50": 5, "weeks_ahead": 1}.items()
    assert summary["files"]["csv"] == str(home / "exports" / "forecasts" / f"{WEEK}.csv")
    assert tell_news(lake, settings, NOW + dt.timedelta(hours=1)) == []
    assert len(webhook.got) == 3


def test_a_failure_is_told_again_only_after_it_was_mended(home, lake, webhook):
    settings = Settings(notify=webhook.url)
    fail(lake)
    tell_news(lake, settings, NOW)
    fail(lake, "r2")
    assert tell_news(lake, settings, NOW) == []
    record_success(lake, Run("r3", "weekly_forecast", (WEEK,)), NOW)
    assert tell_news(lake, settings, NOW) == []
    fail(lake, "r4")
    assert len(tell_news(lake, settings, NOW)) == 1


def test_a_late_week_is_told_by_the_rule_of_the_dashboard(home, lake, webhook):
    settings = Settings(notify=webhook.url)
    for back in range(4):
        week = WEEK - dt.timedelta(weeks=back)
        land(
            lake,
            f"sales/{week}.csv",
            week=week,
            at=dt.datetime.combine(week, dt.time(6), dt.UTC) + dt.timedelta(days=2),
        )
    due = dt.datetime(2025, 2, 10, 6, tzinfo=dt.UTC)
    assert tell_news(lake, settings, due - dt.timedelta(minutes=1)) == []
    (line,) = tell_news(lake, settings, due)
    assert "Late: sales of the week of 2025-02-07" in line
    assert tell_news(lake, settings, due + dt.timedelta(days=1)) == []


def test_what_happened_long_ago_is_no_news(home, lake, webhook):
    settings = Settings(notify=webhook.url)
    fail(lake)
    land(lake, "sales/bad.csv", "refused", 9, at=NOW + dt.timedelta(days=300))
    publish(lake, home)
    land(lake, "sales/old.csv", "refused", 9)
    lines = tell_news(lake, settings, NOW + dt.timedelta(days=301))
    assert [line.split(": ", 1)[1] for line in lines] == ["Refused: sales/bad.csv"]


def test_two_hundred_refused_files_are_one_message(home, lake, webhook):
    settings = Settings(notify=webhook.url)
    for number in range(5):
        land(lake, f"sales/{number}.csv", "refused", 9)
    (line,) = tell_news(lake, settings, NOW)
    assert ", and 4 more" in line
    land(lake, "sales/9.csv", "refused", 9)
    (line,) = tell_news(lake, settings, NOW)
    assert line.endswith("Refused: sales/9.csv")


def test_a_report_waits_for_its_page(home, lake, webhook):
    settings = Settings(notify=webhook.url)
    publish(lake, home, page=False)
    assert tell_news(lake, settings, NOW) == []
    publish(lake, home)
    assert len(tell_news(lake, settings, NOW)) == 1


def test_a_target_that_does_not_answer_is_tried_a_few_times_and_fails_nothing(home, lake, webhook, caplog):
    webhook.answers = [500]
    settings = Settings(notify=webhook.url)
    fail(lake)
    with caplog.at_level(logging.INFO):
        for _ in range(notify.MOST_ATTEMPTS + 2):
            tell_news(lake, settings, NOW)
    assert len(webhook.got) == notify.MOST_ATTEMPTS * notify.TRIES
    (row,) = lake.read("notices").to_pylist()
    assert (row["attempts"], row["told_at"]) == (notify.MOST_ATTEMPTS, None)
    assert "500" in row["trouble"]
    assert "hunter2" not in caplog.text + str(row)


def test_one_deaf_target_does_not_keep_the_others_from_hearing(home, lake, webhook):
    settings = Settings(notify=("http://127.0.0.1:9/deaf", webhook.url))
    fail(lake)
    lines = tell_news(lake, settings, NOW)
    assert [line.split()[0] for line in lines] == ["could", "told"]
    tell_news(lake, settings, NOW)
    assert len(webhook.got) == 1


def test_a_lake_that_cannot_be_read_fails_nothing(home, lake, webhook, caplog, monkeypatch):
    monkeypatch.setattr(lake, "query", lambda *_: (_ for _ in ()).throw(OSError(f"no {webhook.url}")))
    assert tell_news(lake, Settings(notify=webhook.url), NOW) == []
    assert "nobody could be told" in caplog.text
    assert "hunter2" not in caplog.text


# ------------------------------------------------------------ the ways in


def test_the_command_tries_every_target(home, webhook, capsys, monkeypatch):
    monkeypatch.setenv("FORECAST_NOTIFY", webhook.url)
    get_settings.cache_clear()
    try:
        for code, answers in ((0, [200]), (1, [404])):
            webhook.answers = answers
            with pytest.raises(SystemExit) as ended:
                main(["notify", "--test"])
            assert (ended.value.code or 0) == code
        assert webhook.texts()[0]["kind"] == "test"
        out, err = capsys.readouterr()
        assert "told webhook 127.0.0.1" in out
        assert "1 of 1 targets could not be told" in err
        assert "hunter2" not in out + err
        monkeypatch.delenv("FORECAST_NOTIFY")
        get_settings.cache_clear()
        with pytest.raises(SystemExit):
            main(["notify"])
        assert "set FORECAST_NOTIFY" in capsys.readouterr().err
    finally:
        get_settings.cache_clear()


def test_the_sensor_tells_and_then_has_nothing_new(home, lake, webhook):
    import dagster as dg

    from forecast_platform.defs.notifications import notifier
    from forecast_platform.defs.resources import Platform

    now = dt.datetime.now(dt.UTC)
    fail(lake, at=now)

    def tick(settings: Settings, cursor: str | None = None) -> tuple[str, str | None]:
        context = dg.build_sensor_context(cursor=cursor, resources={"platform": Platform(settings)})
        (reason,) = [r for r in [notifier(context)] if isinstance(r, dg.SkipReason)]
        return str(reason.skip_message), context.cursor

    assert "notify is empty" in tick(Settings())[0]
    reason, cursor = tick(Settings(notify=webhook.url))
    assert "Failed: weekly_forecast" in reason
    reason, cursor = tick(Settings(notify=webhook.url), cursor)
    assert reason == "nothing new to tell", "the notices changed"
    assert tick(Settings(notify=webhook.url), cursor)[0] == "nothing new"
    assert len(webhook.got) == 1
