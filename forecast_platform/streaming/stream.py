"""A stream of transactions becomes weekly landing files: nothing lost, nothing counted twice.

Weeks are windows in event time: a transaction belongs to the week that holds its day where the shop is. A week closes
when its last day has been over for `lateness`, and every message that the broker had by then is counted: a look notes
the time and the partitions' ends, and when these are reached it is known. So no partition that runs ahead closes a
week before another one has delivered it, a message from a wrong clock closes nothing, and a year of messages read in
one go gives whole weeks. A message that comes later restates its week: a file with all sums of it again.

Why no kill loses or doubles anything. (1) Sums and offsets are written in one transaction (state.py), so what the state
holds is the sum of the messages below its offsets, each once. (2) A start goes on from these offsets, not from what a
broker was told; what was read and not written is read again. A message delivered twice is told by its offset. (3) A
file is made of the written state alone and put in place whole. Killed before the state says so, the next start writes
it again: the same bytes under the same name, which landing takes for nothing new, or those with later messages, which
restate the week. (4) What was refused waits in the same transaction, and is put into the lake by the moment it was
written: again is instead, not beside. So the file in place is at each time the state at one set of offsets.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.place import Landing
from forecast_platform.streaming.messages import ROWS, Messages, Reader
from forecast_platform.streaming.state import StreamError, StreamState
from forecast_platform.weeks import WEEK

MOST = 500_000  # messages that are written at one time
MOST_POISON = 10_000  # refused messages that are written at one time: these hold the whole message
AT_MOST = dt.timedelta(seconds=10)  # between two writes, looks or lines of progress
PUT_AWAY = dt.timedelta(minutes=1)  # between two writes into the lake's quarantine
POLL = 0.2  # seconds
_STREAM = "stream"  # as the version of what is quarantined: messages have none
FEW = 100  # refused messages that do not stop the stream, whatever their share

_TEXTS = ("rule", "field", "value", "message", "record")
POISON = pa.schema([("partition", pa.string()), ("line", pa.int64()), *((name, pa.string()) for name in _TEXTS)])


class MessageSource(Protocol):
    """Where messages come from.

    Attributes:
        name: as `quarantine` is to call it; partitions are added.
    """

    name: str

    def assign(self, positions: Mapping[str, int], since: dt.datetime | None) -> None: ...
    def ends(self) -> dict[str, int]: ...
    def poll(self, seconds: float) -> Messages: ...
    def note(self, positions: Mapping[str, int]) -> None: ...


@dataclass(frozen=True)
class Windows:
    """When a week is written.

    Args:
        lateness: from the end of a week until it closes; and the least time between two files of one week.
        keep: for how long after its end a week's sums are kept, so that late messages can restate it.
        most_refused: a larger share of refused messages (more than FEW of them) stops the stream.
    """

    lateness: dt.timedelta
    keep: dt.timedelta
    most_refused: float = 0.5


@dataclass
class _Look:
    """A moment, and what the partitions held at it: reached when all of that is counted."""

    at: dt.datetime
    ends: dict[str, int]

    def lag(self, positions: Mapping[str, int]) -> int:
        return sum(max(end - positions.get(partition, 0), 0) for partition, end in self.ends.items())


@dataclass
class Counts:
    """What a stream did: messages counted, refused, of weeks before it, and files written."""

    messages: int = 0
    poison: int = 0
    earlier: int = 0
    files: list[str] = field(default_factory=list)


class Stream:
    """One topic on its way into a landing place.

    Args:
        source: not assigned yet.
        file: begins the names of the files.
        clock: the time of now, in UTC.
        tell: takes a line of progress.
    """

    def __init__(
        self,
        source: MessageSource,
        state: StreamState,
        reader: Reader,
        windows: Windows,
        landing: Landing,
        lake: Lake,
        file: str,
        clock: Callable[[], dt.datetime],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.source, self.state, self.reader, self.windows = source, state, reader, windows
        self.landing, self.lake, self.file, self.clock, self.tell = landing, lake, file, clock, tell
        self.counts = Counts()
        self._positions: dict[str, int] = dict(state.positions)
        self._rows: list[pa.Table] = []
        self._poison: pa.Table = POISON.empty_table()
        self._waiting = 0  # messages that are counted and not written

    def run(self, once: bool, stopped: Callable[[], bool] = lambda: False) -> Counts:
        """Read until stopped; with `once`, what is there now.

        Raises:
            StreamError: messages are lost, the brokers do not answer, or most messages are refused. What was written
                stands, and the next run goes on from there.
            LandingError, LakeError: a file or the refused could not be written; the next run does.
        """
        assert self.state.first_week is not None
        since = self._begins(self.state.first_week)
        self.source.assign(self.state.positions, since if self.clock() >= since else None)
        look, landed = self._look(), False
        written = told = put = self.clock()
        before = 0
        while not stopped():
            self._take(self.source.poll(POLL))
            now, reached = self.clock(), not look.lag(self._positions)
            full = self._waiting >= MOST or len(self._poison) >= MOST_POISON
            if full or now - written >= AT_MOST or (reached and not landed):
                self._write(now)
                written = now
            if now - told >= AT_MOST:
                pace = (self.counts.messages - before) / (now - told).total_seconds()
                self.tell(self._progress(look, pace))
                told, before = now, self.counts.messages
            if self.state.refused and (now - put >= PUT_AWAY or self.state.refused >= MOST_POISON):
                self._put_away()
                put = now
            if reached and not landed:
                self._land(look.at)
                landed = True
            if landed and once:
                break
            if landed and now - look.at >= AT_MOST:
                look, landed = self._look(), False
        self._write(self.clock())
        self._put_away()
        return self.counts

    def _look(self) -> _Look:
        at = self.clock()
        return _Look(at, self.source.ends())

    def _progress(self, look: _Look, pace: float) -> str:
        weeks = ", ".join(str(w.week) for w in self.state.weeks if w.landed_at is None)
        late = sum(w.changed for w in self.state.weeks if w.landed_at)
        text = f"{self.counts.messages:,} messages, {pace:,.0f}/s, lag {look.lag(self._positions):,}, open weeks: "
        text += weeks or "none"
        text += f", {late} to be restated" if late else ""
        return text + (f", {self.counts.poison:,} refused" if self.counts.poison else "")

    # --- messages

    def _take(self, batch: Messages) -> None:
        """Count messages, each once."""
        batch = self._new(batch)
        if len(batch.values):
            reading = self.reader.read(batch, self.clock(), self.state.gone)
            self._rows.append(reading.rows)
            self._poison = pa.concat_tables([self._poison, _named(reading.poison, batch)])
            self._waiting += len(batch.values)
            self.counts.messages += len(batch.values)
            self.counts.earlier += reading.earlier
            self.counts.poison += len(reading.poison)
        for partition, end in batch.ends.items():
            self._positions[partition] = max(end, self._positions.get(partition, 0))

    def _new(self, batch: Messages) -> Messages:
        """Without messages that came before; positions move on."""
        keep = np.ones(len(batch.values), bool)
        for code in np.unique(batch.partition).tolist():
            at, name = np.flatnonzero(batch.partition == code), batch.names[code]
            offset = batch.offset[at]
            highest = np.maximum.accumulate(np.append(self._positions.get(name, 0) - 1, offset))
            keep[at] = offset > highest[:-1]
            self._positions[name] = int(highest[-1]) + 1
        return batch if keep.all() else batch.take(np.flatnonzero(keep))

    def _write(self, now: dt.datetime) -> None:
        """Put into the state what came since the last time, with the offsets that it reaches to."""
        if self._positions == self.state.positions:
            return
        self._refuse_most()
        rows = pa.concat_tables([ROWS.empty_table(), *self._rows])
        self.state.commit(rows, self._poison, self._positions, now)
        self._rows, self._poison, self._waiting = [], POISON.empty_table(), 0
        self.source.note(self.state.positions)

    def _refuse_most(self) -> None:
        """Where most messages are refused, the settings are wrong and not the messages: then none is used up."""
        poison = self._poison
        if len(poison) <= max(FEW, self.windows.most_refused * self._waiting):
            return
        first = poison.slice(0, 1).to_pylist()[0]
        raise StreamError(
            f"{len(poison):,} of {self._waiting:,} messages were refused, so none of them was taken in; first in "
            f"partition {first['partition']} at offset {first['line']}: {first['message']} [{first['rule']}]. If they "
            "are to go: FORECAST_MOST_REFUSED=1"
        )

    # --- weeks

    def _begins(self, week: dt.date) -> dt.datetime:
        return dt.datetime.combine(week - WEEK + dt.timedelta(days=1), dt.time(), self.reader.zone)

    def _due(self, at: dt.datetime) -> list[dt.date]:
        """The weeks to be written: closed by then, with messages that are in no file."""
        found = []
        for week in self.state.weeks:
            closes = self._begins(week.week + WEEK) + self.windows.lateness
            if week.changed and at >= max(closes, week.landed_at + self.windows.lateness if week.landed_at else closes):
                found.append(week.week)
        return found

    def _land(self, at: dt.datetime) -> None:
        """Write the files of weeks that are closed at a moment up to which all is counted and written."""
        assert not self._waiting, "what is not written yet may be of a week that is forgotten here"
        for week in self._due(at):
            key = f"sales/{self.file}_{week}.parquet"
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "week.parquet")
                rows = self.state.week(week)
                pq.write_table(as_file(rows, week, self.reader.dialect), path, compression="zstd")
                self.landing.put(key, path)
            self.state.landed(week, at)
            self.counts.files.append(key)
            self.tell(f"landed {key}: {len(rows):,} rows of the week {week}")
        self.state.forget((at - self.windows.keep).date())

    def _put_away(self) -> None:
        """Put what was refused into the lake's quarantine."""
        from pyiceberg.expressions import And

        poison = self.state.poison()
        if not len(poison):
            return
        moment = poison["moment"].cast(pa.timestamp("us", "UTC"))
        source = [f"{self.source.name}/{partition}" for partition in poison["partition"].to_pylist()]
        rows = pa.table(
            {
                "landed_date": moment.cast(pa.date32(), safe=False),
                "source_key": pa.array(source),
                "source_version": pa.repeat(pa.scalar(_STREAM), len(poison)),
                "landed_at": moment,
                **{name: poison[name] for name in ("line", "rule", "field", "value", "message", "record")},
            }
        )
        moments = sorted(set(moment.to_pylist()))
        where = And(any_of("landed_date", {m.date().isoformat() for m in moments}), any_of("source_version", [_STREAM]),
                    any_of("landed_at", {m.isoformat() for m in moments}))  # fmt: skip

        def with_ours(there: pa.Table) -> pa.Table:
            known = set(zip(source, poison["line"].to_pylist(), strict=True))
            places = zip(there["source_key"].to_pylist(), there["line"].to_pylist(), strict=True)
            others = there.filter(pa.array([place not in known for place in places], pa.bool_()))
            return pa.concat_tables([others.select(rows.column_names).cast(rows.schema), rows])

        self.lake.replace("quarantine", where, with_ours)
        self.state.quarantined(moments[-1])


def as_file(rows: pa.Table, week: dt.date, dialect: Dialect) -> pa.Table:
    """A week's sums as a file that the dialect reads."""
    date = week - dt.timedelta(days=6) if dialect.week_label == "start" else week
    columns = {"store": rows["store"], "dept": rows["dept"], "date": pa.repeat(pa.scalar(date, pa.date32()), len(rows))}
    return pa.table({**columns, "weekly_sales": rows["sales"]})


def _named(poison: pa.Table, batch: Messages) -> pa.Table:
    """Refused messages by partition and offset."""
    at = poison["line"].to_numpy()
    partition = [batch.names[code] for code in batch.partition[at].tolist()]
    columns = {"partition": pa.array(partition, pa.string()), "line": pa.array(batch.offset[at])}
    texts = {name: poison["column" if name == "field" else name] for name in _TEXTS}
    return pa.table({**columns, **texts}, POISON)
