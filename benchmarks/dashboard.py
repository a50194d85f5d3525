"""How fast the dashboard's pages load with many series: `python -m benchmarks.dashboard --series 100000`.

Makes a lake of that many series (sales of 143 weeks, two forecasts of 12 weeks, realised accuracy of 8 weeks) in a
temporary folder and requests every page over loopback, once and again. Prints one line a page, and JSON with --json.
With --browser, also the first paint in headless Chromium (Debian's, found on the PATH), after these requests.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import uvicorn

from forecast_platform.dashboard.app import PAGES, build_app
from forecast_platform.dashboard.source import Source
from forecast_platform.lake.lake import Lake
from forecast_platform.settings import Settings

WEEKS, HORIZON, SCORED = 143, 12, 8
WEEK = dt.timedelta(weeks=1)
LAST = dt.date(2012, 10, 26)
NOW = dt.datetime(2012, 10, 27, tzinfo=dt.UTC)


def fill(lake: Lake, series: int) -> None:
    """Random sales with a season, forecasts near them, and their errors."""
    rng = np.random.default_rng(0)
    depts = min(100, series)
    store = pa.array([str(1 + i // depts) for i in range(series)])
    dept = pa.array([str(1 + i % depts) for i in range(series)])
    size = rng.lognormal(9, 1, series)
    for k in range(WEEKS):
        week = LAST - (WEEKS - 1 - k) * WEEK
        sales = size * (1 + 0.3 * np.sin(k / 52 * 2 * np.pi)) * rng.normal(1, 0.1, series)
        _write(
            lake, "cleaned_series", week, series, store=store, dept=dept, week=week, sales=sales, observed=True,
            is_return=False, is_restated=False, is_holiday=k % 13 == 0, landed_at=NOW, source_key="sales.csv",
        )  # fmt: skip
    columns = [c for c in lake.specs["forecasts"].schema.names if c[0] == "p" and c[1:].isdigit()]
    for made in (LAST - WEEK, LAST):
        parts = []
        for h in range(1, HORIZON + 1):
            middle = size * rng.normal(1, 0.05, series)
            spread = {c: middle * (1 + (int(c[1:]) - 50) / 400) for c in columns}
            same = {"forecast_week": made, "target_week": made + h * WEEK, "horizon": h, "model_version": "deepar-0",
                    "as_known": "now", "run_id": "r", "created_at": NOW}  # fmt: skip
            parts.append(
                _rows(lake, "forecasts", series, store=store, dept=dept, level="series", mean=middle, **spread, **same)
            )
            total = {c: np.array([v.sum()]) for c, v in {"mean": middle, **spread}.items()}
            parts.append(_rows(lake, "forecasts", 1, store=None, dept=None, level="total", **total, **same))
        lake.replace_weeks("forecasts", [made], pa.concat_tables(parts))
    for k in range(SCORED):
        actual, p50 = (size * rng.normal(1, 0.1, series) for _ in range(2))
        naive = size * rng.normal(1, 0.12, series)
        error, naive_error = p50 - actual, naive - actual
        _write(
            lake, "forecast_accuracy", LAST - k * WEEK, series, store=store, dept=dept, level="series", horizon=1,
            week=LAST - k * WEEK, forecast_week=LAST - (k + 1) * WEEK, actual=actual, p50=p50, mean=p50, error=error,
            abs_error=np.abs(error), quantile_loss=np.abs(error) / 2, in_interval=np.abs(error) < 0.15 * actual,
            naive=naive, naive_abs_error=np.abs(naive_error), model_version="deepar-0",
        )  # fmt: skip


def _rows(lake: Lake, table: str, count: int, **values: Any) -> pa.Table:
    schema = lake.specs[table].schema
    arrays = [
        pa.array(v)
        if isinstance(v, np.ndarray)
        else v
        if isinstance(v, pa.Array)
        else pa.repeat(pa.scalar(v, field.type), count)
        for field in schema
        for v in [values[field.name]]
    ]
    return pa.table([a.cast(f.type) for a, f in zip(arrays, schema, strict=True)], schema=schema)


def _write(lake: Lake, table: str, partition: dt.date, count: int, **values: Any) -> None:
    lake.replace_weeks(table, [partition], _rows(lake, table, count, **values))


def visit(address: str, repeats: int = 3) -> tuple[float, float, int]:
    """Seconds of the first visit and of the median of later ones, and bytes."""
    times, size = [], 0
    for _ in range(1 + repeats):
        started = time.perf_counter()
        with urllib.request.urlopen(address) as answer:  # noqa: S310 (our own server)
            size = len(answer.read())
        times.append(time.perf_counter() - started)
    return times[0], statistics.median(times[1:]), size


def first_paint(address: str) -> float:
    """Milliseconds until a new browser window shows something of a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--disable-gpu", "--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page()
        page.goto(address)
        painted: float = page.evaluate(
            """() => new Promise(done => new PerformanceObserver((list, me) => {
                const seen = list.getEntriesByName('first-contentful-paint')[0];
                if (seen) { me.disconnect(); done(seen.startTime); }
            }).observe({ type: 'paint', buffered: true }))"""
        )
        browser.close()
    return painted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings()
        lake = Lake.local(Path(folder) / "lake", settings.quantile_columns)
        started = time.perf_counter()
        fill(lake, arguments.series)
        print(f"{arguments.series:,} series made in {time.perf_counter() - started:.0f} s", flush=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(build_app(settings, Source(lake)), host="127.0.0.1", port=port, log_level="error")
        )
        serving = threading.Thread(target=server.run)
        serving.start()
        while not server.started:
            time.sleep(0.05)
        found = {}
        for page in (*PAGES, "explore?store=7&dept=12", "misses?store=7", "accuracy?store=7", "heatmap?measure=bias"):
            first, again, size = visit(f"http://127.0.0.1:{port}/{page}")
            found[page or "this week"] = {"first_s": round(first, 3), "again_s": round(again, 3), "bytes": size}
            paint = ""
            if arguments.browser:
                milliseconds = first_paint(f"http://127.0.0.1:{port}/{page}")
                found[page or "this week"]["first_paint_ms"] = round(milliseconds)
                paint = f", first paint {milliseconds:4.0f} ms"
            times = f"first {first:6.2f} s, again {again:6.3f} s"
            print(f"{page or 'this week':26} {times}, {size / 1e3:6.0f} kB{paint}", flush=True)
        server.should_exit = True
        serving.join()
    if arguments.json:
        arguments.json.write_text(json.dumps({"series": arguments.series, "pages": found}, indent=1))


if __name__ == "__main__":
    main()
