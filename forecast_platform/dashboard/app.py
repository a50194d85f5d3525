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
from forecast_platform.dashboard.pages import BadView, NothingPublished, Tables, View
from forecast_platform.dashboard.questions import State
from forecast_platform.dashboard.rendering import environment
from forecast_platform.dashboard.source import Source
from forecast_platform.dashboard.stages import Stages
from forecast_platform.dashboard.troubles import troubles
from forecast_platform.publishing.exports import NothingToExport, Selection, export, file_name
from forecast_platform.publishing.sheets import Sheet, csv_lines, write_xlsx
from forecast_platform.settings import Settings

HERE = Path(__file__).parent
PAGES: dict[str, tuple[str, Callable[[View], dict[str, Any]]]] = {
    "": ("This week", pages.this_week),
    "explore": ("Explore", pages.explore),
    "heatmap": ("Heat map", pages.heatmap),
    "misses": ("Misses", pages.misses),
    "revisions": ("Revisions", pages.revisions),
    "accuracy": ("Accuracy", pages.accuracy),
    "leaderboard": ("Leaderboard", pages.leaderboard),
    "runs": ("Data and runs", pages.runs),
}
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

    def respond(request: Request, name: str, status: int = 200, **context: Any) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")

        def href(page: str = "", **query: Any) -> str:
            kept = {k: v for k, v in query.items() if v not in ("", None)}
            return f"{root}/{page}" + (f"?{urllib.parse.urlencode(kept)}" if kept else "")

        html = (
            environment()
            .get_template(name)
            .render(href=href, assets=assets, pages={k: title for k, (title, _) in PAGES.items()}, **context)
        )
        return HTMLResponse(html, status, headers={**_HEADERS, "Cache-Control": "no-cache"})

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
                found = troubles(state, settings, now)
                return respond(
                    request, "message.html", 404, page=name, title=title, message=str(error), findings=found,
                    version=state.version,
                )  # fmt: skip
            except BadView as error:
                return respond(request, "message.html", 404, page=name, title=title, message=str(error), version="")
            return respond(
                request, f"{name or 'week'}.html", page=name, title=title, version=state.version, view=view, **context
            )

        return Route(f"/{name}", handle, methods=["GET"])

    def forecast(request: Request) -> Response:
        """The forecast as a file; `format` says which."""
        try:
            return _forecast(View(source.state(), settings, {"format": "xlsx", **request.query_params}))
        except (BadView, NothingToExport) as error:
            return respond(request, "message.html", 404, page=None, title="Files", message=str(error), version="")

    def names(request: Request) -> Response:
        """Stores or departments like what is typed into a filter of many."""
        of, state = request.query_params.get("of", ""), source.state()
        like = request.query_params.get("like", "")
        found = ask.names_like(state, of, like, pages.FEW) if of in ("store", "dept") else []
        return JSONResponse(found, headers=_HEADERS)

    def version(request: Request) -> Response:
        return JSONResponse({"version": source.state().version}, headers=_HEADERS)

    def missing(request: Request, error: Exception) -> Response:
        message = "There is no such page."
        return respond(request, "message.html", 404, page=None, title="Not found", message=message, version="")

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
    if view.form == "parquet":
        raise BadView("tables of a page are CSV or Excel files; whole forecasts are Parquet, too")
    wanted = view.wanted_table or next(iter(tables))
    if wanted not in tables:
        raise BadView(f"table is {wanted!r}; it is one of {', '.join(tables)}")
    rows, digits = tables[wanted](), ask.digits(view.state)
    name = f"{page} {wanted if wanted != page else ''} {view.file_name}"
    if view.form == "csv":
        return StreamingResponse(csv_lines(rows, digits), media_type=_TYPES["csv"], headers=_named(name, "csv"))
    return _made(name, "xlsx", lambda path: write_xlsx(path, [Sheet.of(wanted, rows)], digits))


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
            export(con, view.week, chosen, path, view.form)

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
