"""The web application: one handler a page, everything of a view in its address, nothing that writes.

Pages are whole HTML from the server: the first paint needs no script, a link is a view somebody else can open, and a
screen reader reads tables. The script adds the pointer's figures to charts and reloads a page when its data changed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from babel import Locale
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from forecast_platform.dashboard import pages
from forecast_platform.dashboard import questions as ask
from forecast_platform.dashboard.names import Names
from forecast_platform.dashboard.pages import BadView, NothingPublished, Tables, View, words_of
from forecast_platform.dashboard.questions import State
from forecast_platform.dashboard.rendering import environment
from forecast_platform.dashboard.source import Source
from forecast_platform.dashboard.stages import Stages
from forecast_platform.dashboard.troubles import troubles
from forecast_platform.publishing.exports import NothingToExport, Selection, export, file_name
from forecast_platform.publishing.sheets import Sheet, csv_lines, write_xlsx
from forecast_platform.settings import Settings
from forecast_platform.words import LANGUAGES, N_, Words

HERE = Path(__file__).parent
PAGES: dict[str, tuple[str, Callable[[View], dict[str, Any]]]] = {
    "": (N_("This week"), pages.this_week),
    "explore": (N_("Explore"), pages.explore),
    "heatmap": (N_("Heat map"), pages.heatmap),
    "misses": (N_("Misses"), pages.misses),
    "revisions": (N_("Revisions"), pages.revisions),
    "accuracy": (N_("Accuracy"), pages.accuracy),
    "leaderboard": (N_("Leaderboard"), pages.leaderboard),
    "runs": (N_("Data and runs"), pages.runs),
}
_OWN_NAMES = {language: str(Locale(language).get_display_name(language)).capitalize() for language in LANGUAGES}
_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "parquet": "application/vnd.apache.parquet",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def build_app(settings: Settings, source: Source, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> Starlette:
    """The dashboard over a lake.

    Args:
        hosts: names it answers to, without ports. Any other Host header is refused, so that a page elsewhere cannot
            read a dashboard on localhost by pointing a name of its own at it.
    """
    stages = Stages(settings.dagster_home)
    assets = hashlib.sha256(b"".join(p.read_bytes() for p in sorted((HERE / "static").iterdir()))).hexdigest()[:8]

    def respond(request: Request, name: str, title: str, status: int = 200, **context: Any) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        words = _words(request)
        lang = {"lang": words.language} if words != settings.words else {}  # which every link keeps

        def href(page: str = "", **query: Any) -> str:
            asked = query if page.startswith("static") else lang | query
            kept = {k: v for k, v in asked.items() if v not in ("", None)}
            return f"{root}/{page}" + (f"?{urllib.parse.urlencode(kept)}" if kept else "")

        def here(language: str) -> str:
            """This very view in another language."""
            own = {k: v for k, v in request.query_params.items() if k != "lang"}
            spoken = {"lang": language} if language != settings.words.language else {}
            return request.url.path + (f"?{urllib.parse.urlencode(own | spoken)}" if own | spoken else "")

        html = (
            environment(words)
            .get_template(name)
            .render(
                href=href, here=here, assets=assets, words=words, title=words.term(title), languages=_OWN_NAMES,
                pages={k: words.term(title) for k, (title, _) in PAGES.items()}, **context,
            )
        )  # fmt: skip
        return HTMLResponse(html, status, headers={**_HEADERS, "Cache-Control": "no-cache"})

    def _words(request: Request) -> Words:
        try:
            return words_of(settings, request.query_params)
        except BadView:  # which the page says
            return settings.words

    def page(name: str) -> Route:
        title, build = PAGES[name]

        # Not a coroutine: questions to the lake run in Starlette's threads.
        def handle(request: Request) -> Response:
            state, now = source.state(), dt.datetime.now(dt.UTC)
            try:
                view = View(state, settings, request.query_params, stages, now)
                context = build(view)
                if view.form:
                    return _table(name or "week", view, context["tables"])
            except NothingPublished as error:
                found = troubles(state, settings, now, Names.of(state, _words(request)))
                return respond(
                    request, "message.html", title, 404, page=name, message=str(error), findings=found,
                    version=state.version,
                )  # fmt: skip
            except BadView as error:
                return respond(request, "message.html", title, 404, page=name, message=str(error), version="")
            return respond(
                request, f"{name or 'week'}.html", title, page=name, version=state.version, view=view, **context
            )

        return Route(f"/{name}", handle, methods=["GET"])

    def forecast(request: Request) -> Response:
        """The forecast as a file; `format` says which."""
        try:
            return _forecast(View(source.state(), settings, {"format": "xlsx", **request.query_params}))
        except (BadView, NothingToExport) as error:
            return respond(request, "message.html", N_("Files"), 404, page=None, message=str(error), version="")

    def names(request: Request) -> Response:
        """Stores or departments like what is typed into a filter of many."""
        of, state = request.query_params.get("of", ""), source.state()
        like = request.query_params.get("like", "")
        if of not in ("store", "dept"):
            return JSONResponse([], headers=_HEADERS)
        names = Names.of(state, settings.words)
        found = ask.names_like(state, of, like, names.given[of], pages.FEW)
        return JSONResponse([{"value": key, "label": names.key(of, key)} for key in found], headers=_HEADERS)

    def version(request: Request) -> Response:
        return JSONResponse({"version": source.state().version}, headers=_HEADERS)

    def missing(request: Request, error: Exception) -> Response:
        message = _words(request).gettext("There is no such page.")
        return respond(request, "message.html", N_("Not found"), 404, page=None, message=message, version="")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        stages.warm()
        yield
        source.close()
        stages.close()

    return Starlette(
        lifespan=lifespan,
        routes=[
            *(page(name) for name in PAGES),
            Route("/export", forecast, methods=["GET"]),
            Route("/names", names, methods=["GET"]),
            Route("/version", version, methods=["GET"]),
            Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            Middleware(GZipMiddleware, minimum_size=2000),
        ],
        exception_handlers={404: missing},
    )


def ask_ahead(settings: Settings, state: State) -> None:
    """Ask a state what every page without a filter asks, so that whoever opens one has the answers at once; and what is
    asked next and takes longest."""
    for page, query in (*((page, {}) for page in PAGES), ("revisions", {"by": "series"})):
        with contextlib.suppress(BadView):  # there is no forecast yet
            view = View(state, settings, query, None, dt.datetime.now(dt.UTC))
            PAGES[page][1](view)
            _ = view.stores, view.depts


def _table(page: str, view: View, tables: Tables) -> Response:
    """A table of a page, whole, as a file whose name says what it is.

    Raises:
        BadView: the page has no table of that name.
    """
    _ = view.words.gettext
    if view.form == "parquet":
        raise BadView(_("tables of a page are CSV or Excel files; whole forecasts are Parquet, too"))
    wanted = view.wanted_table or next(iter(tables))
    if wanted not in tables:
        raise BadView(_("%(name)s is %(value)s; it is one of %(options)s", name="table", value=repr(wanted),
                        options=", ".join(tables)))  # fmt: skip
    rows, digits = tables[wanted](), ask.digits(view.state)
    name = f"{page} {wanted if wanted != page else ''} {view.file_name}"
    if view.form == "csv":
        return StreamingResponse(csv_lines(rows, digits), media_type=_TYPES["csv"], headers=_named(name, "csv"))
    return _made(name, "xlsx", lambda path: write_xlsx(path, [Sheet.of(wanted, rows)], digits, view.words.unit))


def _forecast(view: View) -> Response:
    """The whole forecast of the view's week and scope, every level, as `forecast export` writes it."""
    scope = view.scope
    chosen = Selection(
        stores=(scope.store,) if scope.store else (),
        depts=(scope.dept,) if scope.dept else (),
        groups=((scope.attribute, scope.member),) if scope.attribute else (),
    )

    def write(path: Path) -> None:
        with view.state.cursor() as con:
            export(con, view.week, chosen, path, view.form, view.words.unit)

    name = file_name(view.week, chosen, view.form).removesuffix(f".{view.form}")
    return _made(name, view.form, write)


def _made(name: str, form: str, write: Callable[[Path], object]) -> Response:
    """A file that is written, sent and thrown away."""
    folder = Path(tempfile.mkdtemp(prefix="forecast-download-"))
    away = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    try:
        write(folder / f"file.{form}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return FileResponse(folder / f"file.{form}", headers=_named(name, form), media_type=_TYPES[form], background=away)


def _named(words: str, form: str) -> dict[str, str]:
    name = re.sub(r"[^\w.-]+", "-", words).strip("-")
    plain = re.sub(r"[^a-zA-Z0-9_.]+", "-", name)
    disposition = f"attachment; filename=\"{plain}.{form}\"; filename*=UTF-8''{urllib.parse.quote(name)}.{form}"
    return {**_HEADERS, "Content-Disposition": disposition}
