"""The settings that would read a file of unknown shape: found where the file decides, asked where it does not.

A file that the current settings read is left alone. For any other file each setting is looked for in turn. Where only
one value reads the file, it is proposed with its reason. Where several do, they become the answers of a question. Later
settings wait until earlier questions are answered. Nothing here knows a terminal: an answer is a setting, given with
the next call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecast_platform.landing import evidence, rules
from forecast_platform.landing.dialects import MISSING, Dialect
from forecast_platform.landing.files import Opened, short
from forecast_platform.landing.identity import look_alikes
from forecast_platform.landing.judgement import Known, Limits, judge
from forecast_platform.landing.kinds import FileRefused, Parsed
from forecast_platform.landing.reading import TEXT, blocks, canonical, open_file, open_table, unpacked
from forecast_platform.landing.totals import leaving_out, totals
from forecast_platform.landing.typed import BATCH, sheet_cells
from forecast_platform.landing.values import Days, check_formats, has_zone, mask, to_flags, to_numbers
from forecast_platform.weeks import EARLIEST, WEEKDAYS, WeekCalendar

SAMPLE = 1 << 22  # bytes of text that are looked at, and shown
_MOST_TEXTS = 4000  # distinct texts of a column that are looked at
_STRAY = 0.05  # share of the dates that may be none
_ROLES = ("store", "dept", "date", "weekly_sales")
_WORD = {"store": "stores", "dept": "departments", "date": "dates", "weekly_sales": "sales"}
# Settings that a file's answers may add to without another reading of the files that a home has.
_ADDS = frozenset(("columns", "date_format", "currency", "accounting", "missing", "totals"))
_WRITE_DAYS = (
    "Write days in one column as 2026-11-20, weeks as 2026-W47; names of months are read in English only, times only "
    "without AM and PM."
)
_DAY_NAMES = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        settings: what it sets. "{}" in a text stands for what a person writes: a name, a day.
        words: what the file then says.
    """

    settings: Mapping[str, Any]
    words: str

    @property
    def free(self) -> bool:
        """Whether a person has to write something."""
        return any("{}" in value for value in self.settings.values() if isinstance(value, str))

    def with_text(self, text: str) -> dict[str, Any]:
        """The settings with what a person wrote."""
        return {k: v.replace("{}", text) if isinstance(v, str) else v for k, v in self.settings.items()}


@dataclass(frozen=True)
class Question:
    """What a file does not decide."""

    text: str
    choices: tuple[Answer, ...]


@dataclass(frozen=True)
class Proposal:
    """What would read a file.

    Attributes:
        key: its name.
        settings: to be set, as in settings.toml; empty where those of now read it, or none do.
        why: setting -> the reason.
        questions: what the file does not decide; while there are any, `parsed` is None.
        refusal: why the settings of now do not read it; with neither settings nor questions, why none do.
        kind: of KINDS.
        parsed: its rows as the proposed settings read them.
        whole: all of the file was looked at, not only its beginning.
    """

    key: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()
    refusal: FileRefused | None = None
    kind: str = "sales"
    parsed: Parsed | None = None
    whole: bool = True

    @property
    def helps(self) -> bool:
        """Whether there is something to propose or to ask."""
        return bool(self.questions) or bool(self.settings and self.parsed)

    def beside_others(self, contract: Dialect) -> Proposal:
        """The proposal for a home that has sales: refused where it would change how files of before are read.

        Args:
            contract: how files are read by now.
        """
        changes = {*self.settings, *(name for q in self.questions for c in q.choices for name in c.settings)}
        other = sorted(changes - _ADDS - {"no_row"})
        asked = [q for q in self.questions if "no_row" not in q.choices[0].settings]
        try:
            settings = _with_format_of_now(self.settings, contract)
            questions = tuple(
                Question(q.text, tuple(Answer(_with_format_of_now(c.settings, contract), c.words) for c in q.choices))
                for q in asked
            )
        except ValueError:  # a date could be read in two ways
            other = [*other, "date_format"]
        if not other:
            return dataclasses.replace(self, settings=settings, questions=questions)
        message = (
            f"{self.key} is written in another way than the files that this home has: it would need another "
            f"{', '.join(other)}. A home reads one kind of file: save it like the others, or use another home "
            "(FORECAST_HOME)"
        )
        return Proposal(self.key, refusal=FileRefused("other_dialect", message), kind=self.kind)


def _with_format_of_now(settings: Mapping[str, Any], contract: Dialect) -> dict[str, Any]:
    """The settings, with their date format added to the current one. Raises ValueError where both could read a
    date."""
    form, own = str(settings.get("date_format", "")), contract.date_format
    if not form or form.startswith(own):
        return dict(settings)
    check_formats(f"{own}|{form}")
    return {**settings, "date_format": f"{own}|{form}"}


def propose(
    data: Path,
    key: str,
    contract: Dialect,
    now: dt.datetime,
    first_week: dt.date = EARLIEST,
    limits: Limits = Limits(),  # noqa: B008 (it is frozen)
    said: Collection[str] = (),
    answered: Collection[str] = (),
    kind: str = "",
) -> Proposal:
    """What would read a file that the settings of now do not read.

    Args:
        data: where it lies.
        key: its name, whose end tells the format.
        contract: how files are read by now, answers included.
        now: in UTC; no week after it can have sales.
        said: names of the settings that are not left at their defaults: they are no open questions.
        answered: names of those that were given for this file: they are kept whatever the file says.
        kind: of KINDS; empty: told from the columns.
    """
    try:
        sample, name, whole = _sample(data, key)
    except FileRefused as refusal:
        return Proposal(key, refusal=refusal)
    said = {*said, *(f.name for f in dataclasses.fields(contract) if getattr(contract, f.name) != f.default)}
    search = _Search(sample, name, contract, now, first_week, limits, frozenset(said), frozenset(answered), kind, whole)
    refused = search.refused()
    if refused is not None and not whole:  # the beginning may mislead
        refused = dataclasses.replace(search, data=data, key=key).refused()
    if refused is None:
        return Proposal(key, kind=search.kind or "sales", parsed=search.parsed, whole=whole)
    try:
        search.find()
    except FileRefused as last:
        refused = last if search.settings or last.rule == "no_dates" else refused
        search.parsed = None
    return Proposal(
        key,
        {name: value for name, value in search.settings.items() if getattr(contract, name, None) != value},
        search.why,
        tuple(search.questions),
        refused,
        search.kind or "sales",
        None if search.questions else search.parsed,
        whole,
    )


def _sample(data: Path, key: str) -> tuple[bytes | Path, str, bool]:
    """The beginning of a file, under a name that tells its format; and whether that is all of it."""
    name, content = unpacked(data, key, SAMPLE + 1)
    suffix = next((s for s in TEXT if name.endswith(s)), "")
    if name.endswith(".parquet"):
        with contextlib.suppress(Exception):  # what is damaged is said by who reads it
            file = pq.ParquetFile(content.rewound())
            if file.metadata.num_rows > BATCH:
                out = io.BytesIO()
                pq.write_table(pa.Table.from_batches([next(file.iter_batches(BATCH))]), out)
                return out.getvalue(), name, False
        return data, key, True
    if not suffix:
        return data, key, True
    name = key if key.lower().endswith(suffix) else Path(key).stem.removesuffix(suffix) + suffix
    if len(content) <= SAMPLE:
        return content[:], name, True
    text = content[:SAMPLE]
    if b"\0" in text[:200]:  # UTF-16, whose line ends are of two bytes
        return data, key, True
    return text[: text.rfind(b"\n") + 1] or text, name, False


class _Asked(Exception):
    """The search stops here: what comes next depends on an answer."""


@dataclass
class _Search:
    data: bytes | Path
    key: str
    dialect: Dialect
    now: dt.datetime
    first_week: dt.date
    limits: Limits
    said: frozenset[str]
    answered: frozenset[str]
    kind: str
    whole: bool
    settings: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    parsed: Parsed | None = None
    _key_columns: list[int] = field(default_factory=list)

    @property
    def calendar(self) -> WeekCalendar:
        return WeekCalendar(ends=self.dialect.week_ends, first_week=self.first_week)

    def refused(self) -> FileRefused | None:
        """Why the dialect does not read the file; None: it does."""
        try:
            self.kind = self.kind or rules.kind_of(self.data, self.key, self.dialect)
            self._parse()
        except FileRefused as refusal:
            return refusal
        return None

    def find(self) -> None:
        """Look for the settings.

        Raises:
            FileRefused: no settings read the file.
        """
        with contextlib.suppress(_Asked):
            for step in (self._container, self._columns, self._dates, self._numbers, self._weeks, self._rows):
                step()
                # How numbers are written does not depend on dates: both are asked at once.
                if self.questions and step != self._dates:
                    raise _Asked

    def _settle(self, name: str, value: Any, why: str) -> None:
        self.settings[name] = value
        self.why[name] = why
        if name != "no_row":
            self.dialect = dataclasses.replace(self.dialect, **{name: value})

    def _ask(self, text: str, choices: Iterable[Answer]) -> None:
        self.questions.append(Question(text, tuple(choices)))

    def _parse(self) -> None:
        """Parse the file with the settings found so far. Raises FileRefused where it is refused as a whole."""
        newest = self.calendar.last_started(self.now)
        self.parsed = rules.parse(self.kind, self.data, self.key, self.dialect, self.calendar, newest)
        if self.kind == "sales":
            verdict = judge(self.parsed, Known(()), self.key, self.dialect, self.limits)
            if verdict.refusal:
                raise verdict.refusal

    # --- bytes, fields, header

    def _container(self) -> None:
        name, content = unpacked(self.data, self.key)
        if name.endswith(".parquet"):
            return
        if name.endswith(".xlsx"):
            try:
                cells = sheet_cells(content, self.key, self.dialect)
            except FileRefused as refusal:
                if refusal.rule == "which_sheet":
                    self._ask_sheet(content.rewound())
                raise
            rows = [(i, _until_empty([str(cell) for cell in row])) for i, row in enumerate(cells)]
            shape = evidence.table(rows)
        else:
            text = self._text(content[:])
            found = evidence.delimited(text)
            shape = self._delimiter(found, text) if found else None
        if shape and shape.skip and not self.dialect.skip_rows and "skip_rows" not in self.answered:
            titles = f"{shape.skip} lines of titles stand" if shape.skip > 1 else "a line of titles stands"
            self._settle("skip_rows", shape.skip, f"{titles} before the header")

    def _ask_sheet(self, file: Any) -> None:
        import python_calamine

        book = python_calamine.CalamineWorkbook.from_filelike(file)
        self._ask(
            "Which sheet holds the rows?", [Answer({"sheet": name}, f"sheet {name!r}") for name in book.sheet_names]
        )
        raise _Asked

    def _text(self, data: bytes) -> str:
        """The whole text, decoded. Finds the encoding, or asks for it."""
        begin = self.dialect.encoding or "utf-8"
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            begin = "utf-16"
        strange = b"\0" in data[:200] and not begin.startswith("utf-16")
        try:
            if not strange:
                return data.decode(begin).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            pass
        found = evidence.encodings(data)
        if "encoding" in self.answered or not found:
            raise FileRefused("encoding", f"{self.key} is not {begin}, and no other encoding gives words.")
        if len(found) > 1:
            odd = {codec: _strange_words(text) for codec, text in found}
            self._ask(
                "In which encoding is the text? Its names read differently",
                [Answer({"encoding": codec}, f"{codec}: {', '.join(words)}") for codec, words in odd.items()],
            )
            raise _Asked
        ((codec, text),) = found
        self._settle("encoding", codec, f"it is no UTF-8; {codec} gives words: {', '.join(_strange_words(text))}")
        return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")

    def _delimiter(self, found: Sequence[tuple[str, evidence.Shape]], text: str) -> evidence.Shape | None:
        said = re.match(r'\s*"?sep=', text, re.IGNORECASE)
        tabs = self.key.lower().endswith((".tsv", ".txt")) and found[0][0] == "\t"
        own = self.dialect.delimiter or ("\t" if tabs else ",")
        shapes = dict(found)
        if said or "delimiter" in self.answered:
            return shapes.get(own) or found[0][1]
        (delimiter, best), *others = found
        if delimiter == own:
            return best
        rivals = [
            (d, s) for d, s in others if s.known == best.known and s.share > 0.9 * best.share and s.width == best.width
        ]
        if rivals:
            self._ask(
                "What separates the fields?",
                [
                    Answer({"delimiter": d}, f"{_sign(d)}: {s.width} columns in {s.share:.0%} of the lines")
                    for d, s in [(delimiter, best), *rivals]
                ],
            )
            raise _Asked
        self._settle("delimiter", delimiter, f"{best.share:.0%} of its lines have {best.width} fields separated by it")
        return best

    # --- columns

    def _columns(self) -> None:
        file = open_table(self.data, self.key, self.dialect)
        if not self.kind:
            self.kind = self._kind(file.header)
        if self.kind != "sales":
            self._parse()
            return
        table = _Columns(file, self.dialect)
        names = canonical(file.header, self.dialect)
        if (dated := self._wide(file.header, names)) is not None:
            if not self.questions:
                self._keys(table, names, dated)
            return
        if table.first_row_is_data():
            raise FileRefused(
                "no_header",
                f"{self.key} has no header: its first line looks like a row. Write the columns' names there.",
            )
        taken = [names.index(role) for role in _ROLES if role in names]
        if "date" not in names:
            taken.append(self._date_column(table, taken))
        sales = None if "weekly_sales" in names else self._sales_column(table, taken)
        self._keys(table, names, taken if sales is None else [*taken, sales])
        if sales is None and "weekly_sales" not in names:
            self._ask_sales(table, [*taken, *self._key_columns])
        if "is_holiday" not in names and "is_holiday" not in self.dialect.columns:
            self._flag_column(table)

    def _kind(self, header: Sequence[str]) -> str:
        """The kind of the file, one of KINDS, though columns may not be mapped yet: sales, unless nothing looks like
        them."""
        try:
            kind = rules.kind_of(self.data, self.key, self.dialect)
        except FileRefused:
            return "sales"
        like = [name for name in header if evidence.speaks_of_sales(name) or evidence.date_like([name.strip()])]
        if (
            kind == "sales"
            or like
            or (kind != "departments" and any(evidence.meant(name) == "dept" for name in header))
        ):
            return "sales"
        if kind == "features":
            raise FileRefused("unknown_kind", f"{self.key} may hold sales or features; say which with --kind.")
        return kind

    def _map(self, role: str, column: str) -> None:
        """Read a role from a column of that name."""
        if "|" in column:
            raise FileRefused("column_name", f"{self.key} has a column {column!r}; rename it: no setting can name it.")
        before = self.dialect.columns.get(role)
        mapped = dict(self.dialect.columns) | {role: f"{before}|{column}" if before else column}
        self._settle("columns", mapped, "by their names, and by what is in them")

    def _mapping(self, role: str, column: str) -> dict[str, Any]:
        before = self.dialect.columns.get(role)
        return {"columns": {**self.dialect.columns, role: f"{before}|{column}" if before else column}}

    def _date_column(self, table: _Columns, taken: Sequence[int]) -> int:
        dated = [i for i in table.free(taken) if table.dates(i)]
        if not dated:
            named = [i for i in table.free(taken) if table.meant(i) == "date" and table.texts(i)]
            held = "; ".join(f"{table.names[i]!r} holds {short(table.texts(i)[0])}" for i in named)
            raise FileRefused(
                "no_dates",
                f"{self.key} has no column of dates that can be read; "
                + (
                    f"{held} in line {table.line(named[0])}. {_WRITE_DAYS}"
                    if named
                    else f"its columns are {', '.join(table.names)}."
                ),
            )
        if len(dated) > 1:
            dated.sort(key=lambda i: table.meant(i) != "date")
            self._ask(
                "Which column says the week or the day of a row's sales?",
                [Answer(self._mapping("date", table.names[i]), table.shown(i)) for i in dated],
            )
            raise _Asked
        self._map("date", table.names[dated[0]])
        return dated[0]

    def _keys(self, table: _Columns, names: Sequence[str], taken: Sequence[int]) -> None:
        """The columns of stores and departments."""
        taken = [*taken, *(names.index(role) for role in ("store", "dept") if role in names)]
        self._key_columns = []
        constants = {"store": self.dialect.store, "dept": self.dialect.department}
        lacking = [role for role, value in constants.items() if role not in names and not value]
        named = {role: [i for i in table.free(taken) if table.meant(i) == role] for role in lacking}
        for role, columns in named.items():
            if len(columns) == 1:
                self._map(role, table.names[columns[0]])
                self._key_columns += columns
        taken += self._key_columns
        # Whatever is answered, columns found so far go with it.
        so_far = {"columns": dict(self.dialect.columns)} if "columns" in self.settings else {}
        none = Answer({**so_far, "department": rules.ONE_DEPARTMENT}, "none: all rows are of one department")
        rest = [i for i in table.free(taken) if not table.dates(i) and table.texts(i)]
        for role, columns in named.items():
            if len(columns) == 1:
                continue
            alone = [none]
            if role == "store":
                alone = [Answer({**so_far, "store": "{}"}, "none: all rows are of one store, whose name is")]
                columns = columns or [i for i in rest if not table.numeric(i) or table.whole(i)]
            elif not columns:
                columns = [i for i in rest if not table.numeric(i) and table.splits(i, taken)]
                if not columns:
                    continue  # one department, as the rules have it
            self._ask(
                f"Which column holds the {_WORD[role]}?",
                [*(Answer(self._mapping(role, table.names[i]), table.shown(i)) for i in columns), *alone],
            )
            raise _Asked

    def _sales_column(self, table: _Columns, taken: Sequence[int]) -> int | None:
        """The column of sales: the only one whose name speaks of sales. Of pieces only where no column is of
        money."""
        figures = self._figures(table, taken)
        spoken = [i for i in figures if evidence.speaks_of_sales(table.names[i])]
        if len(spoken) != 1 or table.meant(spoken[0]) != "weekly_sales":
            return None
        if evidence.means_pieces(table.names[spoken[0]]) and any(
            not table.whole(i) or evidence.speaks_of_money(table.names[i]) for i in figures if i != spoken[0]
        ):
            return None
        self._map("weekly_sales", table.names[spoken[0]])
        return spoken[0]

    def _figures(self, table: _Columns, taken: Sequence[int]) -> list[int]:
        return [i for i in table.free(taken) if table.numeric(i) and not table.dates(i)]

    def _ask_sales(self, table: _Columns, taken: Sequence[int]) -> None:
        figures = self._figures(table, taken)
        if not figures:
            raise FileRefused(
                "no_sales", f"{self.key} has no column of numbers for sales; its columns are {', '.join(table.names)}."
            )
        figures.sort(key=lambda i: (table.meant(i) != "weekly_sales", not evidence.speaks_of_sales(table.names[i])))
        self._ask(
            "Which column holds the sales?",
            [Answer(self._mapping("weekly_sales", table.names[i]), table.shown(i)) for i in figures],
        )
        raise _Asked

    def _flag_column(self, table: _Columns) -> None:
        named = [
            i
            for i in table.free(())
            if re.sub(r"[\W_]", "", table.names[i].lower()) in ("isholiday", "holiday", "feiertag", "holidayflag")
        ]
        if len(named) == 1 and table.flags(named[0]):
            self._map("is_holiday", table.names[named[0]])

    def _wide(self, header: Sequence[str], names: Sequence[str]) -> list[int] | None:
        """The columns whose titles are weeks or days; None where there are none. Finds their format, or asks for it."""
        if "date" in names or "weekly_sales" in names:
            return None
        at = [i for i, name in enumerate(header) if re.search("[0-9]", name)]
        titles = [header[i].strip() for i in at]
        found, day = evidence.readings(titles, self.calendar.weekday, self.dialect.date_format)
        dated = [i for i, d in zip(at, day, strict=True) if not np.isnat(d)]
        if len(dated) > 1:
            self._choose_format(found, [header[i].strip() for i in dated], titles)
            return dated
        counted = [(i, m) for i in at if (m := re.fullmatch(r"(\D+)([0-9]{1,4})", header[i].strip()))]
        numbers = [int(m[2]) for _, m in counted]
        prefix = counted[0][1][1] if counted else ""
        in_order = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
        if len(numbers) < 7 or not in_order or any(m[1] != prefix for _, m in counted):
            return None
        self._ask(
            f"The columns {prefix}{numbers[0]} .. {prefix}{numbers[-1]} are numbered days. Which is the first?",
            [Answer({"date_format": f"{prefix}%n from {{}}"}, f"the day of {prefix}1, as YYYY-MM-DD")],
        )
        raise _Asked

    # --- dates and numbers

    @functools.cached_property
    def _opened(self) -> Opened:
        return open_file(self.data, self.key, self.dialect)

    def _texts(self, column: str) -> tuple[list[str], bool]:
        """Distinct texts of a column, and whether they are typed."""
        found: dict[str, None] = {}
        typed = False
        for block in blocks(self._opened, self.dialect, ("date", "weekly_sales"), ()):
            found |= dict.fromkeys(t for t in pc.unique(block.text(column)).to_pylist() if t)
            typed = block.typed(column)
        return list(found)[:_MOST_TEXTS], typed

    def _line_of(self, date: str) -> int:
        """The first line with that text for a date."""
        for block in blocks(self._opened, self.dialect, ("date", "weekly_sales"), ()):
            if (at := mask(pc.equal(block.text("date"), date))).any():
                return int(block.rows.line[at.argmax()])
        return 1

    def _dates(self) -> None:
        if self.kind != "sales":
            return
        texts, typed = self._texts("date")
        if typed or not texts:
            return
        zoned = has_zone(pa.array(texts, pa.string()))
        found, day = evidence.readings(texts, self.calendar.weekday, self.dialect.date_format)
        # Slips in a format that is known, such as a 31st of June, are rows to refuse; another format is not.
        known = {re.sub("[0-9]", "0", t) for t, d in zip(texts, day, strict=True) if not np.isnat(d)}
        unread = [
            t for t in texts if re.search("[0-9].*[0-9].*[0-9].*[0-9]", t) and re.sub("[0-9]", "0", t) not in known
        ]
        if len(unread) > _STRAY * len(texts):
            raise FileRefused(
                "date_format",
                f"{self.key} has dates in no format that is known, such as {', '.join(map(short, unread[:3]))} (line "
                f"{self._line_of(unread[0])}). {_WRITE_DAYS}",
            )
        if (~np.isnat(day)).any() and "date_format" not in self.answered:
            self._choose_format(found, [t for t, d in zip(texts, day, strict=True) if not np.isnat(d)], texts)
        if zoned.any() and not self.dialect.time_zone and "time_zone" not in self.answered:
            self._ask(
                f"In which time zone are the stores? {short(texts[int(zoned.argmax())])} is a day only there",
                [Answer({"time_zone": "{}"}, "a name such as Europe/Berlin"), Answer({"time_zone": "UTC"}, "UTC")],
            )

    def _choose_format(self, found: Sequence[evidence.Reading], dated: Sequence[str], texts: Sequence[str]) -> None:
        own = self.dialect.date_format
        if "date_format" in self.answered:
            return
        best = evidence.decided(found)
        mine = next((r for r in found if r.date_format == own), None)
        if mine and ("date_format" in self.said or mine is best) and (best in (None, mine) or mine.regular):
            return
        if best is not None:
            if best.date_format == own:
                return
            example = _told(best, texts)
            alone = "all dates are" if len(found) == 1 else "only so they go from week to week:"
            self._settle("date_format", self._added(best.date_format), f"{alone} written like it: {example}")
            return
        if not found:
            raise FileRefused(
                "date_format",
                f"{self.key} writes its dates in more than two ways, or in one that is not known: "
                f"{', '.join(map(short, dated[:3]))}.",
            )
        ends = self.calendar
        ranked = sorted(
            found,
            key=lambda r: (not ends.is_week_end(r.days[~np.isnat(r.days)]).all(), not r.sure, r.date_format != own),
        )
        at = _where_they_differ(found)
        self._ask(
            f"How are dates written? {short(texts[at])} can be read in more than one way"
            if len(found) > 1
            else f"Are its dates written like {found[0].date_format}? They need not be",
            [
                Answer(
                    {"date_format": self._added(r.date_format)},
                    f"{r.date_format}: {texts[at]} is {_day(r.days[at])}; all from {np.nanmin(r.days)} to "
                    f"{np.nanmax(r.days)}",
                )
                for r in ranked[:6]
            ],
        )

    def _added(self, form: str) -> str:
        """The format to set: added to those that a person has set, unless a text could be read by both."""
        if "date_format" not in self.said:
            return form
        both = f"{self.dialect.date_format}|{form}"
        try:
            check_formats(both)
        except ValueError:
            return form
        return both

    def _numbers(self) -> None:
        if self.kind != "sales":
            return
        texts, typed = self._texts("weekly_sales")
        if typed or not texts:
            return
        found = evidence.numbers(texts)
        dialect, answered = self.dialect, self.answered
        if found.currency and "currency" not in answered:
            signs = [*dialect.currency.split(), *(s for s in found.currency if s not in dialect.currency.split())]
            if len(found.currency) > 1:
                self._ask(
                    "Sales stand in several currencies. Are they of one, or to be added up as they are?",
                    [Answer({"currency": " ".join(signs)}, f"yes: {', '.join(found.currency)} mean the same")],
                )
            elif signs != dialect.currency.split():
                self._settle(
                    "currency", " ".join(signs), f"it stands beside numbers: {_with(texts, found.currency[0])}"
                )
        if found.accounting and not dialect.accounting and "accounting" not in answered:
            example = next(t for t in texts if re.search(r"^\(.*\)$|-$", t) and re.search("[0-9]", t))
            self._settle("accounting", True, f"{example} is below zero")
        self._missing(found)
        if "decimal" in answered or (dialect.decimal and dialect.decimal in found.decimals):
            return
        if len(found.decimals) == 1:
            (decimal,) = found.decimals
            if decimal and decimal != dialect.decimal:
                example = next((t for t in texts if re.search(rf"[{decimal}]", t)), texts[0])
                self._settle("decimal", decimal, f"only so all numbers can be read: {_with(texts, decimal) or example}")
        elif found.decimals:
            self._ask_decimal(found, texts)
        else:
            raise FileRefused(
                "number_style", f"{self.key} writes its numbers in two ways; write them in one and import it again."
            )

    def _ask_decimal(self, found: evidence.Numbers, texts: Sequence[str]) -> None:
        example = found.differ or next((t for t in texts if re.search(r"[^0-9+\-]", t)), texts[0])
        choices = []
        for decimal in [d for d in found.decimals if d]:
            style = dataclasses.replace(self.dialect, decimal=decimal, thousands="").numbers
            (value,) = to_numbers(pa.array([example], pa.string()), style).to_pylist()
            choices.append(Answer({"decimal": decimal}, f"{decimal} is the decimal sign: {example} is {value:,.10g}"))
        self._ask(f"Which is the decimal sign? {short(example)} does not tell", choices)

    def _missing(self, found: evidence.Numbers) -> None:
        known = self.dialect.missing_in("weekly_sales")
        none = [t for t in found.no_value if t not in known]
        dashes = [t for t in found.dashes if t not in known]
        if "missing" in self.answered or not (none or dashes):
            return
        of_others = dict(self.dialect.missing) or {}
        base = [t for t in known if t] or list(MISSING[1:])

        def setting(more: Sequence[str]) -> dict[str, Any]:
            return {**of_others, "weekly_sales": (*base, *more)}

        if dashes:
            what = ", ".join(map(repr, dashes))
            self._ask(
                f"What does {what} mean as a figure of sales? It is no number",
                [
                    Answer({"missing": setting([*none, *dashes])}, "no value: the sales are not known"),
                    Answer({"missing": setting(none)}, "something else: these rows are refused"),
                ],
            )
        else:
            self._settle("missing", setting(none), f"{', '.join(none)} stands where there is no value")

    # --- weeks

    def _weeks(self) -> None:
        if self.kind != "sales":
            return
        days, column, timed = self._days()
        if not len(days):
            return
        weekday = (days.astype(np.int64) + 3) % 7
        distinct = np.unique(days)
        common, count = Counter(weekday.tolist()).most_common(1)[0]
        weekly = count >= 0.95 * len(days) and not timed
        iso = "%V" in self.dialect.date_format
        if "aggregate" not in self.answered and self.dialect.aggregate != "sum" and not weekly:
            weeks = np.unique(self.calendar.week_ends(distinct))
            if not timed and len(distinct) > 3 and np.median(np.diff(distinct).astype(int)) > 7:
                raise FileRefused(
                    "no_weeks",
                    f"{self.key} has neither days nor weeks: {len(distinct)} dates, {distinct[0]} .. {distinct[-1]}.",
                )
            what = "times of day" if timed else f"{len(distinct)} days in {len(weeks)} weeks"
            self._add_up(what)
            if self.questions:
                return
        if self.dialect.aggregate == "sum" and not weekly:
            self._week_ends_of_days(distinct)
            return
        if iso:
            if self.dialect.week_ends != "SUN" and not {"week_ends", "week_label"} & {*self.said, *self.answered}:
                self._settle("week_ends", "SUN", "weeks of ISO 8601 end on Sunday")
            return
        self._week_of(int(common), column, distinct)

    def _days(self) -> tuple[Days, str, bool]:
        """The day of each row as written, the name of that column, and whether it has times of day."""
        file = open_file(self.data, self.key, self.dialect)
        plain = dataclasses.replace(self.dialect, week_label="end")
        found: list[Days] = [np.zeros(0, "datetime64[D]")]
        timed, column = False, ""
        for block in blocks(file, plain, ("date",), ()):
            text = block.text("date")
            style = dataclasses.replace(block.dates(), times=True)
            days = style.days(text)
            found.append(days[~np.isnat(days)])
            at_night = mask(
                pc.match_substring_regex(text, r"[ T]00?:00(:00([.,]0+)?)?( ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2}))?$")
            )
            timed |= bool((mask(pc.match_substring_regex(text, r"[0-9][ T][0-9]{1,2}:[0-9]{2}")) & ~at_night).any())
            column = "" if file.wide else block.label("date")
        return np.concatenate(found), column, timed

    def _add_up(self, what: str) -> None:
        """Have days or transactions added up to weeks. Asks where there are rows with the same keys."""
        twice = self._twice()
        if not twice and self.whole:
            self._settle("aggregate", "sum", f"its rows are of days, not of weeks: {what}")
            return
        rows = f"{twice:,} rows are" if twice else "Its rows are of days, and beyond its beginning some may be"
        self._ask(
            f"{rows} of a store, department and day (or time) that another is of. Are all to be added up?",
            [Answer({"aggregate": "sum"}, "yes: they are sales, or parts of a day's")],
        )

    def _twice(self) -> int:
        """How many rows have the store, department and moment of an earlier row."""
        seen: set[tuple[Any, ...]] = set()
        twice = 0
        for keys in self._key_rows():
            twice += keys in seen
            seen.add(keys)
        return twice

    def _key_rows(self) -> Iterator[tuple[Any, ...]]:
        file = open_file(self.data, self.key, self.dialect)
        constants, _ = rules.constants_of(file, self.dialect)
        for block in blocks(file, self.dialect, ("store", "dept", "date"), (), constants):
            yield from zip(*(block.text(role).to_pylist() for role in ("store", "dept", "date")), strict=True)

    def _week_ends_of_days(self, days: Days) -> None:
        """Ask on which day weeks end: days do not tell, unless the file begins and ends with whole weeks."""
        if {"week_ends"} & {*self.said, *self.answered}:
            return
        ends = self.calendar
        fits = self.whole and len(days) > 7 and ends.is_week_end(days[[0, -1]] - [1, 0]).all()
        if fits:
            return
        names = [self.dialect.week_ends, *(n for n in ("SAT", "SUN", *WEEKDAYS) if n != self.dialect.week_ends)]
        self._ask(
            f"On which day do your weeks end? Days from {_day(days[0])} to {_day(days[-1])} are added up to weeks",
            [
                Answer({"week_ends": name}, f"{_DAY_NAMES[WEEKDAYS.index(name)]}" + (" (as set now)" if not i else ""))
                for i, name in enumerate(dict.fromkeys(names))
            ],
        )

    def _week_of(self, weekday: int, column: str, days: Days) -> None:
        """Find, or ask, whether the dates are the last or the first days of their weeks."""
        said = evidence.label(column)
        start = self.dialect.week_label == "start"
        own = (self.calendar.weekday + 1) % 7 if start else self.calendar.weekday
        if weekday == own and (not said or said == ("start" if start else "end")):
            return
        if {"week_ends", "week_label"} & self.answered:
            return
        last = {"week_ends": WEEKDAYS[weekday], "week_label": "end"}
        first = {"week_ends": WEEKDAYS[(weekday - 1) % 7], "week_label": "start"}
        if said:
            for name, value in (last if said == "end" else first).items():
                if getattr(self.dialect, name) != value:
                    self._settle(name, value, f"its dates are {_DAY_NAMES[weekday]}, and {column!r} says so")
            return
        choices = [
            Answer(_but_now(self.dialect, last), f"weeks end on {_DAY_NAMES[weekday]}"),
            Answer(_but_now(self.dialect, first), f"weeks begin on {_DAY_NAMES[weekday]}, and a date names that day"),
        ]
        if len(days) < 3:
            choices.append(Answer({"aggregate": "sum"}, "rows are of days, to be added up to weeks"))
        self._ask(f"All dates are {_DAY_NAMES[weekday]}. What do they name?", choices)

    # --- rows

    def _rows(self) -> None:
        if self.kind != "sales":
            return
        try:
            self._parse()
        except FileRefused as refusal:
            if refusal.rule == "duplicate_rows" and "aggregate" not in self.answered:
                self._ask_twice(refusal)
            elif refusal.rule == "total_rows" and "totals" not in self.answered:
                self._totals()
                if not self.questions:
                    self._parse()
            else:
                raise
        if self.questions or self.parsed is None:
            raise _Asked
        self._look_alikes(self.parsed)
        self._gaps(self.parsed)

    def _ask_twice(self, refusal: FileRefused) -> None:
        told = refusal.message.partition(" has ")[2].partition(" Set ")[0]
        self._ask(
            f"It has {told} What are they?",
            [
                Answer({"aggregate": "sum"}, "sales that are added up"),
                Answer({"aggregate": "last"}, "corrections: the last one counts"),
            ],
        )

    def _totals(self) -> None:
        assert self.parsed is not None
        found = totals(self.parsed.sales)
        names, out = "; ".join(map(str, found)), leaving_out(found, self.dialect.totals)
        if all(total.said for total in found):
            self._settle("totals", out, f"{names}, and its name says so")
            return
        one = len(found) == 1
        self._ask(
            f"Week by week {names}. What {'is it' if one else 'are they'}?",
            [
                Answer({"totals": out}, "the sum: it is left out" if one else "sums: they are left out"),
                Answer({"totals": "keep"}, "a store or department of its own" if one else "of their own: they count"),
            ],
        )

    def _look_alikes(self, parsed: Parsed) -> None:
        if {"normalise_keys"} & {*self.said, *self.answered}:
            return
        for column, word in (("store", "stores"), ("dept", "departments")):
            pairs = look_alikes((), parsed.sales.names_left(column))
            asked = sorted({r for p in pairs for r, w in (("numbers", "zeros"), ("case", "case")) if w in p.why})
            if asked:
                named = "; ".join(f"{p.other!r} and {p.kept!r}" for p in pairs[:5])
                self._ask(
                    f"Are these {word} the same? {named}",
                    [
                        Answer({"normalise_keys": asked}, "yes: one"),
                        Answer({"normalise_keys": []}, "no: different ones"),
                    ],
                )
                return

    def _gaps(self, parsed: Parsed) -> None:
        """Whether a week without a row means zero, where there are some between others."""
        if {"no_row"} & {*self.said, *self.answered}:
            return
        rows = parsed.sales
        weeks = sorted(rows.weeks)
        first: dict[int, int] = {}
        count: Counter[int] = Counter()
        last: dict[int, int] = {}
        for number, week in enumerate(weeks):
            for pair in np.unique(rows.pairs(rows.coded(week))).tolist():
                first.setdefault(pair, number)
                last[pair] = number
                count[pair] += 1
        gaps = sum(last[pair] - first[pair] + 1 - count[pair] for pair in count)
        if gaps:
            self._ask(
                f"{gaps:,} weeks have no row of a store and department that has rows before and after. What does that "
                "mean (no_row)?",
                [
                    Answer({"no_row": "zero"}, "nothing was sold"),
                    Answer({"no_row": "unknown"}, "the sales are not known"),
                    Answer({"no_row": "auto"}, "by each one's habit: zero where gaps are usual"),
                ],
            )


class _Columns:
    """The columns of a table, some rows of them."""

    def __init__(self, file: Opened, dialect: Dialect) -> None:
        self.names = [unicodedata.normalize("NFC", name.strip()) for name in file.header]
        self._typed: frozenset[int] = frozenset()
        parts: dict[int, list[pa.Array]] = {i: [] for i in range(len(self.names))}
        lines = [np.zeros(0, np.int64)]
        for rows in file.rows(range(len(self.names))):
            self._typed = rows.typed
            lines.append(rows.line)
            for i, column in rows.columns.items():
                parts[i].append(pc.utf8_trim_whitespace(column))
        self._lines = np.concatenate(lines)
        self._columns = {i: pa.chunked_array(p, pa.string()) for i, p in parts.items()}
        self._missing = pa.array([*dialect.missing_in("weekly_sales"), *evidence.NO_VALUE], pa.string())

    def free(self, taken: Collection[int]) -> list[int]:
        return [i for i, name in enumerate(self.names) if name and i not in taken]

    @functools.cache  # noqa: B019 (it lives as long as a search)
    def texts(self, i: int) -> list[str]:
        """Distinct texts of a column that mean a value."""
        found = pc.unique(self._columns[i].combine_chunks()).drop_null()
        found = found.filter(pc.invert(pc.is_in(found, self._missing)))
        return list(found[:_MOST_TEXTS].to_pylist())

    @functools.cache  # noqa: B019
    def dates(self, i: int) -> bool:
        """Whether a column holds dates. Whole numbers are some only where the name says so, or as 20261120."""
        named = self.meant(i)
        if named not in ("", "date") or not evidence.date_like(self.texts(i)):
            return False
        return named == "date" or all(re.fullmatch("(19|20)[0-9]{6}", t) or not t.isdigit() for t in self.texts(i))

    @functools.cache  # noqa: B019
    def numeric(self, i: int) -> bool:
        texts = [t for t in self.texts(i) if t not in evidence.DASHES]
        return bool(texts) and sum(map(evidence.number_like, texts)) >= 0.5 * len(texts)

    def line(self, i: int) -> int:
        """The line of a column's first value."""
        return int(self._lines[int(mask(pc.equal(self._columns[i], self.texts(i)[0])).argmax())])

    def flags(self, i: int) -> bool:
        return bool(self.texts(i)) and not to_flags(pa.array(self.texts(i), pa.string()))[1].any()

    def whole(self, i: int) -> bool:
        """Whether a column's numbers are whole ones without signs, as numbers of stores are."""
        return all(map(str.isdigit, self.texts(i)))

    def meant(self, i: int) -> str:
        return evidence.meant(self.names[i])

    def shown(self, i: int) -> str:
        return f"{self.names[i]}: {', '.join(self.texts(i)[:4])}"

    def splits(self, i: int, keys: Sequence[int]) -> bool:
        """Whether rows that are alike in the keys differ in the column."""
        seen: dict[tuple[Any, ...], Any] = {}
        columns = [self._columns[k].to_pylist() for k in (*keys, i)]
        return any(seen.setdefault(tuple(key), value) != value for *key, value in zip(*columns, strict=True))

    def first_row_is_data(self) -> bool:
        """Whether the header holds a date, or a number under which there are numbers."""
        if any(evidence.date_like([name]) for name in self.names if name):
            return True
        return any(evidence.number_like(name) and self.numeric(i) for i, name in enumerate(self.names) if name)


def _until_empty(cells: list[str]) -> list[str]:
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _strange_words(text: str) -> list[str]:
    found = dict.fromkeys(re.findall(r"[^\s,;|\t\"]*[^\x00-\x7f][^\s,;|\t\"]*", text))
    return list(found)[:4]


def _sign(delimiter: str) -> str:
    return "a tab" if delimiter == "\t" else repr(delimiter)


def _day(day: Any) -> str:
    date = np.datetime64(day, "D").item()
    return f"{date:%A}, {date.isoformat()}" if isinstance(date, dt.date) else "no date"


def _told(reading: evidence.Reading, texts: Sequence[str]) -> str:
    at = int((~np.isnat(reading.days)).argmax())
    return f"{texts[at]} is {_day(reading.days[at])}"


def _where_they_differ(found: Sequence[evidence.Reading]) -> int:
    for reading in found[1:]:
        unlike = (reading.days != found[0].days) & ~np.isnat(reading.days) & ~np.isnat(found[0].days)
        if unlike.any():
            return int(unlike.argmax())
    return int((~np.isnat(found[0].days)).argmax())


def _with(texts: Sequence[str], sign: str) -> str:
    return next((t for t in texts if sign in t), "")


def _but_now(dialect: Dialect, changes: Mapping[str, str]) -> dict[str, str]:
    """The settings that differ from the current ones; all of them where none does."""
    return {k: v for k, v in changes.items() if getattr(dialect, k) != v} or dict(changes)
