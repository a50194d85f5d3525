"""The web application: one handler a page, everything of a view in its address, nothing that writes.

Pages are whole HTML from the server: the first paint needs no script, a link is a view somebody else can open, and a
screen reader reads tables. The script adds the pointer's figures to charts and reloads a page when its data changed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from forecast_platform.dashboard import pages
from forecast_platform.dashboard.pages import BadView, View
from forecast_platform.dashboard.rendering import environment
from forecast_platform.dashboard.source import Source
from forecast_platform.dashboard.stages import Stages
from forecast_platform.settings import Settings

HERE = Path(__file__).parent
PAGES: dict[str, tuple[str, Callable[[View], dict[str, Any]]]] = {
    "": ("This week", pages.this_week),
    "explore": ("Explore", pages.explore),
    "heatmap": ("Heat map", pages.heatmap),
    "misses": ("Misses", pages.misses),
    "revisions": ("Revisions", pages.revisions),
    "accuracy": ("Accuracy", pages.accuracy),
    "runs": ("Data and runs", pages.runs),
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
            state = source.state()
            try:
                view = View(state, settings, request.query_params, stages)
                context = build(view)
            except BadView as error:
                return respond(request, "message.html", 404, page=name, title=title, message=str(error), version="")
            if view.wants_csv:
                return _csv(name, context["table"])
            return respond(
                request, f"{name or 'week'}.html", page=name, title=title, version=state.version, view=view, **context
            )

        return Route(f"/{name}", handle, methods=["GET"])

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
            Route("/version", version, methods=["GET"]),
            Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            Middleware(GZipMiddleware, minimum_size=2000),
        ],
        exception_handlers={404: missing},
    )


def _csv(name: str, rows: list[Mapping[str, Any]]) -> Response:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _harmless(v) for k, v in row.items()} for row in rows)
    disposition = {"Content-Disposition": f'attachment; filename="{name or "week"}.csv"'}
    return Response(out.getvalue(), media_type="text/csv; charset=utf-8", headers={**_HEADERS, **disposition})


def _harmless(value: Any) -> Any:
    """A spreadsheet runs what begins like a formula; names of stores come from files that others wrote."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
