"""Files judged as a whole, because a file that is read wrongly can still give rows that look right.

`Profile` looks at how a sales file is written while it is read: a file of days, of another weekday, of swapped days and
months or of thousands points is refused, naming the setting that would read it. `judge` looks at what became of its
rows and at the weeks known already: mostly refused, rows twice, sums among the rows, sales of another size.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.landing.by_week import ByWeek
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.files import Block, setting, short
from forecast_platform.landing.identity import look_alikes
from forecast_platform.landing.kinds import FileRefused, Parsed
from forecast_platform.landing.totals import leaving_out, says_so, totals, with_names
from forecast_platform.landing.values import (
    COMMA,
    ISO,
    ISO_WEEK,
    POINT,
    DateStyle,
    ambiguous_thousands,
    mask,
    to_numbers,
)
from forecast_platform.weeks import WEEKDAYS, WeekCalendar

# What other people write, tried where the dialect's own formats do not read a file.
FORMATS: tuple[str, ...] = (
    ISO,
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y%m%d",
    "%Y.%m.%d",
)
FORMATS += ("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%Y", "%d %b %Y", "%b %d %Y", "%d %B %Y", ISO_WEEK)
_STRAY = 0.05  # share of a column's texts that may be written differently before the whole file is judged by it
_MOST_TEXTS = 4000  # distinct texts of a column that are looked at
EXPECTED = (
    "week_incomplete",
    "total_row",
)  # rules by which rows wait, or are left out as the settings ask: nothing is wrong


@dataclass(frozen=True)
class Limits:
    """From where on a file is refused, or warned about. Each is a setting of the same name.

    Args:
        most_refused: share of a file's rows that may be refused.
        most_duplicates: share of a file's rows that may be there twice.
        odd_factor: sales of a store this many times its usual ones, or that part of them, are worth a warning.
        wrong_factor: a whole file of sales this many times the usual ones, or that part of them, is refused.
        most_removed: share of a week's values, or of a store's in a week, that a file may remove without being asked.
    """

    most_refused: float = 0.5
    most_duplicates: float = 0.05
    odd_factor: float = 4.0
    wrong_factor: float = 20.0
    most_removed: float = 0.2


@dataclass(frozen=True)
class Known:
    """What the lake knows of the weeks a file speaks of, before it goes in.

    Args:
        rows: (store, dept, week, sales) in force: of the 60 weeks up to the file's last one, and of its own weeks. A
            table, or some weeks at a time, made anew for who asks.
        columns: header of the sales file accepted before; None: there was none.
    """

    rows: pa.Table | Iterable[pa.Table]
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Verdict:
    """What is to become of a file that could be read.

    Attributes:
        refusal: why it is refused; None: it is taken.
        warnings: what a person should know of a file that is taken.
        acceptable: the refusal may be overruled by a person: `forecast landing accept`.
    """

    refusal: FileRefused | None = None
    warnings: tuple[str, ...] = ()
    acceptable: bool = False


# --- how a file is written


@dataclass
class Profile:
    """How one sales file writes its dates and numbers."""

    key: str
    dialect: Dialect
    calendar: WeekCalendar
    _texts: dict[str, None] = field(default_factory=dict)  # of dates, in the order they were met
    _days: Counter[dt.date] = field(default_factory=Counter)
    _bad_dates: int = 0
    _typed_dates: bool = False
    _numbers: dict[str, None] = field(default_factory=dict)  # some of those that are plain
    _bad_numbers: dict[str, None] = field(default_factory=dict)
    _sales: int = 0
    _bad_sales: int = 0
    _thousands: str | None = None  # an example
    _points: bool = False  # numbers whose points are no thousands

    def add(self, block: Block) -> bool:
        """Take note of some rows. True for the first ones: enough to tell most files by."""
        first = not self._days and not self._bad_dates
        days = block.days("date")
        good = ~np.isnat(days)
        found, counts = np.unique(days[good], return_counts=True)
        self._days.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        self._typed_dates = block.typed("date")
        text = block.text("date")
        self._bad_dates += int((~good & mask(pc.is_valid(text))).sum())
        if self._bad_dates or len(self._texts) < _MOST_TEXTS:
            self._texts |= dict.fromkeys(t for t in pc.unique(text)[:_MOST_TEXTS].to_pylist() if t)
        if not self.dialect.decimal and not block.typed("weekly_sales"):
            self._add_numbers(block)
        return first

    def _add_numbers(self, block: Block) -> None:
        text = block.text("weekly_sales")
        bad = pc.and_(pc.is_valid(text), pc.is_null(block.number("weekly_sales")))
        self._sales += len(text) - text.null_count
        self._bad_sales += int(mask(bad).sum())
        if pc.any(bad).as_py():
            self._bad_numbers |= dict.fromkeys(pc.unique(text.filter(bad))[:_MOST_TEXTS].to_pylist())
        some = text.filter(pc.invert(bad)).drop_null()
        self._numbers |= dict.fromkeys(some[:500].to_pylist())
        if self._points:
            return
        # Most files show in their first rows that a point is a decimal point.
        if pc.any(pc.match_substring(some[:500], ".")).as_py() and ambiguous_thousands(some[:500]) is None:
            self._points = True
        elif (example := ambiguous_thousands(some)) is not None:
            self._thousands = self._thousands or example
        elif pc.any(pc.match_substring(some, ".")).as_py():
            self._points = True

    def check(self) -> None:
        """Raises FileRefused where the rows would mislead, naming the settings that read them."""
        self._check_dates()
        self._check_weekdays()
        self._check_numbers()

    def _refuse(self, rule: str, message: str) -> None:
        raise FileRefused(rule, f"{self.key} {message}")

    def _check_dates(self) -> None:
        """Another way of writing dates reads them all, where the dialect's does not."""
        if self._typed_dates or not self._texts:
            return
        off = sum(count for day, count in self._days.items() if day.weekday() != self.calendar.weekday)
        weekly = self.dialect.aggregate != "sum"
        dates = self._bad_dates + sum(self._days.values())
        if max(self._bad_dates, off if weekly else 0) <= _STRAY * dates:
            return
        texts, own = pa.array(list(self._texts), pa.string()), self.dialect.dates
        others: dict[str, tuple[str, ...]] = {form: (form,) for form in FORMATS if form not in own.formats}
        if self._bad_dates:
            others |= {"|".join((*own.formats, form)): (*own.formats, form) for form in others}
        found = []
        for name, forms in others.items():
            try:
                days = DateStyle(forms, own.weekday, own.times, own.zone, own.starts).days(texts)
                Dialect("", date_format=name)
            except ValueError:
                continue
            one_weekday = len(np.unique((days.astype(np.int64) + 3) % 7)) == 1
            right = one_weekday and bool(self.calendar.is_week_end(days).all())
            # Where all dates could be read, another format counts only if it makes all of them week ends.
            if not np.isnat(days).any() and (
                right or (self._bad_dates and (not weekly or one_weekday or len(days) < 2))
            ):
                found.append((not right, len(forms), name))
        if not found:
            return
        best = min(found)[:2]
        names = [name for *rank, name in found if tuple(rank) == best]
        example = short(next(iter(self._texts)))
        read = (
            f"{self._bad_dates:,} of its dates are not written like"
            if self._bad_dates
            else "its dates end no weeks read as"
        )
        self._refuse(
            "date_format",
            f"is refused: {read} {self.dialect.date_format} (the first is {example}), and all are written like "
            f"{' or '.join(names)}. If that is right, set {' or '.join(setting('date_format', n) for n in names)}.",
        )

    def _check_weekdays(self) -> None:
        if self.dialect.aggregate == "sum" or len(self._days) < 2:
            return
        days = np.array(sorted(self._days), "datetime64[D]")
        weekdays = sorted({day.weekday() for day in self._days})
        weeks = len(np.unique(self.calendar.week_ends(days)))
        off = sum(count for day, count in self._days.items() if day.weekday() != self.calendar.weekday)
        # Two days a week are days, too, unless there is but one week: then one of them may be a slip.
        several = len(weekdays) > (1 if weeks > 1 else 2) and off > _STRAY * sum(self._days.values())
        if several and len(days) > 1.5 * weeks:
            self._refuse(
                "daily_rows",
                f"holds rows of days, not of weeks: {len(days)} days in {weeks} weeks, {days[0]} .. {days[-1]}. "
                f"To add them up to weeks that end on {self.calendar.weekday_name}, set {setting('aggregate', 'sum')}.",
            )
        if len(weekdays) == 1 and weekdays[0] != self.calendar.weekday:
            name = WEEKDAYS[weekdays[0]]
            advice = setting("week_ends", name)
            if weekdays[0] == (self.calendar.weekday + 1) % 7:
                advice += f", or {setting('week_label', 'start')} if a date names the first day of its week"
            self._refuse(
                "wrong_weekday",
                f"has only dates that are a {self._first():%A} ({self._first()} is the first), and weeks end on "
                f"{self.calendar.weekday_name}. If its weeks end then, set {advice}.",
            )

    def _first(self) -> dt.date:
        return min(self._days)

    def _check_numbers(self) -> None:
        if self.dialect.decimal:
            return
        example, both = None, [setting("decimal", ","), setting("decimal", ".")]
        if self._bad_sales > _STRAY * self._sales:
            texts = pa.array([*self._bad_numbers, *self._numbers], pa.string())
            bad = len(self._bad_numbers)
            able = []
            for name, style in ((",", COMMA), (".", POINT)):
                read = mask(pc.is_valid(to_numbers(texts, style)))
                if read[bad:].all() and read[:bad].mean() >= 0.8:
                    able.append(setting("decimal", name))
            if able:
                example, both = next(iter(self._bad_numbers)), able
        if example is None and self._thousands and not self._points:
            example = self._thousands
        if example is None:
            return
        values = [to_numbers(pa.array([example]), style)[0].as_py() for style in (COMMA, POINT)]
        seen = " or ".join(f"{value:,.10g}" for value in values if value is not None)
        self._refuse(
            "number_style",
            f"writes sales in a way that can mean two things: {short(example)} may be {seen}. Set {' or '.join(both)}.",
        )


# --- what became of its rows, and what is known already


def judge(parsed: Parsed, known: Known, key: str, dialect: Dialect, limits: Limits) -> Verdict:
    """What is to become of a sales file whose rows have been read."""
    rules = Counter(parsed.rejected["rule"].to_pylist())
    if refusal := _too_much_refused(parsed, rules, key, dialect, limits):
        return Verdict(refusal)
    if dialect.totals != "keep" and (found := totals(parsed.sales)):
        out = setting("totals", leaving_out(found, dialect.totals))
        return Verdict(
            FileRefused(
                "total_rows",
                f"{key} holds sums among its rows, week by week: {'; '.join(map(str, found))}. Set {out} to leave such "
                f"rows out; if they are no sums: forecast landing accept {key}, or {setting('totals', 'keep')}.",
            ),
            acceptable=True,
        )
    warnings, before = list(parsed.notes), _Before(parsed.sales, known)
    if refusal := _other_size(before, key, limits, warnings):
        return Verdict(refusal, acceptable=True)
    if refusal := _other_weeks(parsed.sales.weeks, before.weeks, key, dialect):
        return Verdict(refusal, acceptable=True)
    bad = {rule: count for rule, count in rules.items() if rule not in EXPECTED}
    if refused := sum(bad.values()):
        top, count = max(bad.items(), key=lambda item: item[1])
        warnings.append(f"{refused:,} of {parsed.rows:,} rows were refused, {count:,} of them by {top}")
    warnings += _columns(parsed, known)
    warnings += _names(parsed.sales, before)
    warnings += _totals(parsed.sales, before, dialect)
    return Verdict(warnings=tuple(warnings))


def _too_much_refused(
    parsed: Parsed, rules: Counter[str], key: str, dialect: Dialect, limits: Limits
) -> FileRefused | None:
    twice = rules["duplicate_row"] + rules["conflicting_duplicate"]
    if twice > (0 if dialect.aggregate == "refuse" else limits.most_duplicates * parsed.rows):
        columns = (
            f" Its columns {', '.join(parsed.splits)} tell them apart: they would be added up." if parsed.splits else ""
        )
        return FileRefused(
            "duplicate_rows",
            f"{key} has {twice:,} of {parsed.rows:,} rows of a store, department and week that other rows are of too, "
            f"so it is not clear what was sold.{columns} Set {setting('aggregate', 'sum')} to add them up, or "
            f"{setting('aggregate', 'last')} where the last one counts.",
        )
    rows = parsed.rejected.to_pylist() if len(parsed.rejected) <= 1000 else parsed.rejected.slice(0, 1000).to_pylist()
    expected = sum(rules[rule] for rule in EXPECTED)
    refused = sum(rules.values()) - expected
    if parsed.accepted_rows and refused <= limits.most_refused * (parsed.rows - expected):
        return None
    top = max(rules, key=lambda rule: (rules[rule], rule)) if rules else ""
    first = next((row for row in rows if row["rule"] == top), None)
    what = "none" if not parsed.accepted_rows else f"only {parsed.accepted_rows:,}"
    why = f" Line {first['line']}: {first['message']}." if first else ""
    return FileRefused(
        "mostly_refused" if parsed.accepted_rows else "nothing_accepted",
        f"{key} is refused as a whole: {what} of its {parsed.rows:,} rows could be accepted, {rules[top]:,} broke the "
        f"rule {top}.{why}",
    )


_HISTORY = 13  # weeks whose median is what a store usually sells


class _Before:
    """What is known already, beside a file's rows.

    Attributes:
        weeks, names: of what is known, by column.
        elsewhere: names, by column, in weeks that the file says nothing of.
        old, new: sales by store and week, of the stores and departments that both have.
    """

    def __init__(self, rows: ByWeek, known: Known) -> None:
        self.weeks: set[dt.date] = set()
        self.names: dict[str, dict[str, None]] = {"store": {}, "dept": {}}
        self.elsewhere: dict[str, set[str]] = {"store": set(), "dept": set()}
        self.old: dict[tuple[str, dt.date], float] = {}
        self.new: dict[tuple[str, dt.date], float] = {}
        tables = [known.rows] if isinstance(known.rows, pa.Table) else known.rows
        pairs: np.ndarray | None = None
        both = np.zeros(0, bool)
        for table in tables:
            if not len(table):
                continue
            if pairs is None:  # those of the file, and which of them are known
                pairs = np.array([-1])
                for week in rows.weeks:
                    pairs = np.union1d(pairs, rows.pairs(rows.coded(week)))
                both = np.zeros(len(pairs), bool)
            coded = {}
            for column, names in self.names.items():
                encoded = table[column].combine_chunks().dictionary_encode()
                names |= dict.fromkeys(encoded.dictionary.to_pylist())
                codes = pc.fill_null(pc.index_in(encoded.dictionary, rows.names(column)), -1)
                coded[column] = codes.take(encoded.indices)
            self.weeks |= set(pc.unique(table["week"]).to_pylist())
            other_weeks = table.filter(pc.invert(pc.is_in(table["week"], pa.array(rows.weeks, pa.date32()))))
            for column, texts in self.elsewhere.items():
                texts |= set(pc.unique(other_weeks[column]).to_pylist())
            here = rows.pairs(pa.table(coded))
            here[np.minimum(*(codes.to_numpy() for codes in coded.values())) < 0] = -1
            at = np.minimum(np.searchsorted(pairs, here), len(pairs) - 1)
            shared = (pairs[at] == here) & (here >= 0)
            both[at[shared]] = True
            _add_by_store(self.old, table.filter(pa.array(shared)))
        if pairs is not None and both.any():
            for week in rows.weeks:
                at = np.searchsorted(pairs, rows.pairs(rows.coded(week)))
                _add_by_store(self.new, rows.of(week).filter(pa.array(both[at])))


def _add_by_store(sums: dict[tuple[str, dt.date], float], rows: pa.Table) -> None:
    found = rows.group_by(["store", "week"], use_threads=False).aggregate([("sales", "sum")])
    for store, week, value in zip(*(found[name].to_pylist() for name in ("store", "week", "sales_sum")), strict=True):
        sums[store, week] = sums.get((store, week), 0.0) + (value or 0.0)


def _other_size(before: _Before, key: str, limits: Limits, warnings: list[str]) -> FileRefused | None:
    """Refusal of a file whose stores sell many times what they used to, or a small part; warnings of single stores."""
    if not before.new:
        return None
    first = min(week for _, week in before.new)
    sizes, usually = (_of_stores(sums) for sums in (before.new, before.old))
    ratios: dict[str, float] = {}
    for store, by_week in sizes.items():
        old = usually.get(store, {})
        weeks = sorted(week for week in old if week < first)[-_HISTORY:] or sorted(old)
        usual = float(np.median([old[week] for week in weeks])) if weeks else 0.0
        if usual > 0:
            ratios[store] = float(np.median(list(by_week.values()))) / usual
    if not ratios:
        return None
    middle = float(np.median(list(ratios.values())))
    if middle > limits.wrong_factor or (middle < 1 / limits.wrong_factor):
        return FileRefused(
            "other_size",
            f"{key} has sales of {middle:.3g} times what its {len(ratios):,} known stores usually sell in a week "
            "(median over stores): another unit, or numbers written another way? See FORECAST_DECIMAL and the file. If "
            f"it is right: forecast landing accept {key}",
        )
    odd = {s: r for s, r in ratios.items() if r > limits.odd_factor or r < 1 / limits.odd_factor}
    if odd:
        worst = sorted(odd, key=lambda s: -abs(np.log(max(odd[s], 1e-9))))
        named = ", ".join(f"{s} ({odd[s]:.2g} times)" for s in worst[:5]) + (
            f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        )
        warnings.append(f"{len(odd):,} of {len(ratios):,} stores sold far more or less than they used to: {named}")
    return None


def _of_stores(sums: Mapping[tuple[str, dt.date], float]) -> dict[str, dict[dt.date, float]]:
    found: dict[str, dict[dt.date, float]] = {}
    for (store, week), value in sums.items():
        found.setdefault(store, {})[week] = value
    return found


def _other_weeks(weeks: list[dt.date], have: set[dt.date], key: str, dialect: Dialect) -> FileRefused | None:
    """Refusal of a file that changes weeks known already, where its days and months swapped would be the next ones."""
    forms = dialect.dates.formats
    if not have or not any(form.startswith(("%d/%m", "%m/%d", "%d-%m", "%m-%d", "%d.%m")) for form in forms):
        return None
    if not weeks or not set(weeks) <= have or any(week.day > 12 for week in weeks):
        return None
    calendar = WeekCalendar(ends=dialect.week_ends)
    swapped = sorted(dt.date(week.year, week.day, week.month) for week in weeks)
    next_week = max(have) + dt.timedelta(days=7)
    ends = all(day.weekday() == calendar.weekday for day in swapped)
    if not ends or swapped[0] != next_week:
        return None
    return FileRefused(
        "swapped_dates",
        f"{key} changes {weeks[0]}, which is known already; with day and month swapped it would be {swapped[0]}, the "
        "next week to come. Say how dates are written with FORECAST_DATE_FORMAT. If it is right: forecast landing "
        f"accept {key}",
    )


def _columns(parsed: Parsed, known: Known) -> list[str]:
    if known.columns is None or not parsed.header:
        return []
    before, now = list(known.columns), list(parsed.header)
    gone, new = [c for c in before if c not in now], [c for c in now if c not in before]
    parts = [f"{word} {', '.join(names[:5])}" for word, names in (("no longer has", gone), ("newly has", new)) if names]
    return [f"the file {' and '.join(parts)}, unlike the one before"] if parts else []


_MARKERS = frozenset(("na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "?", "unknown"))


def _names(rows: ByWeek, before: _Before) -> list[str]:
    """Warnings about names that look like others, or like no name."""
    texts = []
    for column, word in (("store", "store"), ("dept", "department")):
        new, old = rows.names_left(column), list(before.names[column])
        pairs = look_alikes(old, new)
        if pairs:
            named = "; ".join(f"{p.other!r} and {p.kept!r}" for p in pairs[:5]) + (
                " and more" if len(pairs) > 5 else ""
            )
            texts.append(
                f"{word} names that look like one another: {named}. If they are the same, set FORECAST_NORMALISE_KEYS="
                f"{_rules(p.why for p in pairs)} and read the files before again: forecast landing reread KEY"
            )
        odd = sorted({name for name in new if name.strip().lower() in _MARKERS})
        if odd:
            texts.append(
                f"{word} {', '.join(map(repr, odd))} is taken as a name; if it means that there is none, set "
                "FORECAST_MISSING"
            )
    return texts


def _totals(rows: ByWeek, before: _Before, dialect: Dialect) -> list[str]:
    """Warnings about rows that may count twice: of files before, and of names that say that they are sums."""
    if dialect.totals == "keep":
        return []
    texts = []
    for column, names in dialect.sums.items():
        if stayed := [name for name in names if name in before.elsewhere[column]]:
            texts.append(
                f"left out as a sum: {column} {', '.join(map(repr, stayed))}; files of other weeks have such rows, "
                "which count twice; read those files again: forecast landing reread KEY"
            )
    for column in ("store", "dept"):
        left = rows.names_left(column)
        if (said := [name for name in left if says_so(name)]) and len(left) > 1:
            out = setting("totals", with_names(dialect.totals, {column: said}))
            texts.append(
                f"{column} {', '.join(map(repr, said))} is named like a sum, and is no sum of the rows here; "
                f"if it is one, set {out}"
            )
    return texts


def _rules(reasons: Iterable[str]) -> str:
    text = " ".join(reasons)
    rules = [rule for rule, words in (("numbers", "zeros"), ("case", "case")) if words in text]
    return ",".join(rules or ["numbers"])
