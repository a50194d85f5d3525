"""What the commands share: the graph in this process, progress bars, tables."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from forecast_platform.cli.troubles import remedy
from forecast_platform.figures import figure, figures
from forecast_platform.weeks import key

if TYPE_CHECKING:
    import datetime as dt

    import pyarrow as pa

    from forecast_platform.runner import Outcome, Runner


SEE_REFUSED = 'See each line with: forecast query "SELECT source_key, line, rule, value, message FROM quarantine"'


@contextlib.contextmanager
def open_runner() -> Iterator[Runner]:
    """The graph in this process, showing its progress as bars."""
    from forecast_platform.defs.stage import show_progress
    from forecast_platform.runner import Runner

    with Runner() as runner, Bar() as show:
        show_progress(show)
        try:
            yield runner
        finally:
            runner.tell()


def pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.ClickException(f"{text!r} should read NAME=VALUE")
    return name.strip(), value.strip()


class Bar:
    """A progress bar for whatever reports progress; silent bars when standard error is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self.show

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if total == 0:
            self._close()
            click.echo(f"   {what} ...", err=True)
            return
        if self._bar is None or self._what != what or done < self._bar.n:
            self._close()
            # Where nobody watches (a pipe, CI) one line at the end is enough.
            interval = 0.1 if sys.stderr.isatty() else 3600
            self._bar = tqdm(total=total, desc=f"   {what}", file=sys.stderr, mininterval=interval, ncols=90)
            self._what = what
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._close()


def heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


_NUMBERS = (
    "files",
    "rows_accepted",
    "rows_quarantined",
    "rows_changed",
    "rows_vanished",
    "rows",
    "weeks",
    "series",
    "without_forecast",
    "trained_as_of",
    "target",
    "verdict",
    "why",
    "series_per_second",
    "seconds_from_landing",
)


def report(outcome: Outcome, title: str = "") -> None:
    """Stages with their costs; then whatever did not pass.

    Raises:
        click.ClickException: the run failed.
    """
    if title:
        heading(title)
    for name, numbers in outcome.stages.items():
        told = ", ".join(
            f"{n.replace('_', ' ')} " + (f"{numbers[n]:,}" if isinstance(numbers[n], int | float) else str(numbers[n]))
            for n in _NUMBERS
            if n in numbers
        )
        click.echo(f"   {name:18} {numbers['seconds']:7.1f} s  {numbers['process_peak_mb']:6,} MB  {told}")
    for check in outcome.failed_checks:
        click.secho(f"   check  {check}", fg="yellow")
    if not outcome.success:
        reasons = outcome.blocked or [outcome.error or "the run failed"]
        if advice := remedy("\n".join(reasons)):
            reasons = [*reasons, advice]
        raise click.ClickException("\n".join(reasons) + f"\nThe run is {outcome.run_id}; see it with: forecast ui")


def print_forecast(runner: Runner, week: dt.date) -> None:
    import pyarrow as pa

    columns = runner.settings.quantile_columns
    shown = tuple(dict.fromkeys((columns[0], "p50", columns[-1])))
    rows = runner.platform.lake.query(
        f"""
        SELECT level, store, dept, target_week, horizon, {", ".join(shown)}
        FROM forecasts WHERE forecast_week = ? AND (level = 'total' OR (level = 'series' AND horizon = 1))
        ORDER BY level = 'total' DESC, TRY_CAST(store AS INT), store, TRY_CAST(dept AS INT), dept, target_week
        LIMIT 20
        """,  # noqa: S608 (column names are ours)
        [week],
    )
    for column in shown:  # digits by size, alike in a column
        told = pa.array(figures(rows[column].to_pylist()))
        rows = rows.set_column(rows.column_names.index(column), column, told)
    echo_table(rows, "table", 20)
    total = runner.platform.lake.query(
        "SELECT count(*), count(DISTINCT (store, dept)) FROM forecasts WHERE forecast_week = ? AND level = 'series'",
        [week],
    )
    count, series = (column[0].as_py() for column in total.columns)
    click.echo(f"{count:,} rows for {series:,} series, forecast from the week of {key(week)}")


def echo_table(rows: pa.Table, form: str, limit: int, err: bool = False) -> None:
    if form == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(rows, sys.stdout.buffer)
        return
    if form == "json":
        click.echo(json.dumps(rows.to_pylist(), default=str))
        return
    shown = rows.slice(0, limit).to_pylist()
    names = rows.column_names
    cells: Sequence[Sequence[str]] = [[cell(row[name]) for name in names] for row in shown]
    widths = [max([len(name), *(len(c[i]) for c in cells)]) for i, name in enumerate(names)]
    click.echo("  ".join(name.ljust(width) for name, width in zip(names, widths, strict=True)), err=err)
    click.echo("  ".join("-" * width for width in widths), err=err)
    for row in cells:
        numeric = [c[:1].isdigit() or c[:1] == "-" for c in row]
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        click.echo("  ".join(padded), err=err)
    if len(rows) > limit:
        click.echo(f"... {len(rows) - limit:,} more rows; see them with --rows or --format csv", err=err)


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        if abs(value) < 1:
            return figure(value)  # 0.0032 is not 0.00
        return f"{value:,.2f}" if value % 1 else f"{value + 0.0:,.0f}"  # not -0
    return str(value)
