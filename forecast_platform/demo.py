"""A believable retailer, made from a seed: what `forecast demo` forecasts.

Sales of a (store, dept) in a week are a product of causes a merchant would name: the store's size and the
department's share of it, growth and level shifts, the season of the year, holidays that move, promotions
known ahead, a new department ramping up, and noise that is larger for small departments and remembers last
week. On top lie the blemishes of real data: late openings, closures, missing weeks, returns, one department
negative on balance, one that sells now and then.

The files are what the retailer's ETL would drop: a gzipped history, then one CSV a week, with stores,
features and holidays beside them; and once a store's own export, which cannot be read. The same seed and weeks
give the same bytes.

Shapes: S stores, D departments, T weeks of sales, F = T + weeks ahead for what is known in advance. Money is
in the retailer's currency a week.
"""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.weeks import WeekCalendar

Floats = NDArray[np.float64]

# Shopping days before each holiday over which its extra sales are spread, the holiday itself excluded.
LEAD_DAYS = {
    "Super Bowl": 5, "Valentine's Day": 7, "Easter": 10, "Memorial Day": 6, "Independence Day": 7,
    "Back to School": 28, "Labor Day": 6, "Halloween": 12, "Thanksgiving": 8, "Black Friday": 3,
    "Christmas": 24,
}  # fmt: skip
# Not a day off: the first school day shapes the season, but is no entry of the holiday calendar.
NOT_A_HOLIDAY = {"Back to School"}


@dataclass(frozen=True)
class Department:
    """What a department sells like.

    Attributes:
        share: of the store's sales.
        season: (day of year of the peak, its width in days, its height) of each bump over the year.
        holidays: extra sales of a holiday, in normal weeks' worth.
        promotion: lift of a full promotion; 0.5 sells half as much again.
        noise: relative standard deviation at a 20,000 a week department.
    """

    name: str
    share: float
    season: tuple[tuple[int, int, float], ...] = ()
    holidays: tuple[tuple[str, float], ...] = ()
    promotion: float = 0.2
    noise: float = 0.05


DEPARTMENTS = (
    Department("grocery", 0.24, ((355, 25, 0.05),),
               (("Super Bowl", 0.06), ("Easter", 0.15), ("Independence Day", 0.1), ("Thanksgiving", 0.35),
                ("Christmas", 0.4)), promotion=0.10, noise=0.03),
    Department("fresh produce", 0.10, ((180, 70, 0.15),),
               (("Easter", 0.15), ("Memorial Day", 0.1), ("Independence Day", 0.12), ("Thanksgiving", 0.25)),
               promotion=0.12, noise=0.05),
    Department("snacks and drinks", 0.09, ((195, 55, 0.2),),
               (("Super Bowl", 0.4), ("Memorial Day", 0.25), ("Independence Day", 0.4), ("Labor Day", 0.25),
                ("Thanksgiving", 0.2), ("Christmas", 0.4)), promotion=0.35, noise=0.05),
    Department("household", 0.09, ((100, 30, 0.08),), (("Thanksgiving", 0.1),), promotion=0.25, noise=0.04),
    Department("health and beauty", 0.08, ((20, 30, 0.06),),
               (("Valentine's Day", 0.15), ("Christmas", 0.6)), promotion=0.2, noise=0.05),
    Department("apparel", 0.10, ((120, 35, 0.2), (285, 35, 0.2)),
               (("Easter", 0.3), ("Back to School", 1.2), ("Black Friday", 0.7), ("Christmas", 1.2)),
               promotion=0.45, noise=0.06),
    Department("toys", 0.05, ((200, 60, 0.05),),
               (("Easter", 0.3), ("Black Friday", 1.4), ("Christmas", 5.0)), promotion=0.5, noise=0.07),
    Department("electronics", 0.08, (),
               (("Super Bowl", 0.3), ("Back to School", 0.4), ("Black Friday", 2.2), ("Christmas", 2.2)),
               promotion=0.6, noise=0.07),
    Department("garden", 0.05, ((130, 32, 2.2), (260, 25, 0.4)),
               (("Easter", 0.2), ("Memorial Day", 0.5)), promotion=0.4, noise=0.09),
    Department("school and office", 0.03, ((8, 15, 0.25),), (("Back to School", 6.0),),
               promotion=0.3, noise=0.08),
    Department("winter goods", 0.03, ((345, 38, 2.6), (15, 20, 1.0)),
               (("Black Friday", 0.5),), promotion=0.4, noise=0.10),
    Department("candy and party", 0.04, (),
               (("Valentine's Day", 1.2), ("Easter", 1.8), ("Independence Day", 0.4), ("Halloween", 2.6),
                ("Christmas", 1.8)), promotion=0.25, noise=0.06),
    # Gift returns booked against the original sale: below zero on balance, most of all in January.
    Department("returns desk", -0.004, ((8, 14, 2.5),), promotion=0.0, noise=0.25),
    Department("special orders", 0.004, promotion=0.0, noise=0.5),
)  # fmt: skip

# Store type: (share of stores, smallest and largest area in square feet). Sales follow area.
STORE_TYPES = {"A": (0.4, 150_000, 220_000), "B": (0.35, 90_000, 140_000), "C": (0.25, 35_000, 45_000)}
# Region: (mean temperature, summer minus winter, weeks the spring comes early), degrees Fahrenheit.
REGIONS = {"North": (48.0, 46.0, -2), "South": (68.0, 30.0, 3), "West": (58.0, 26.0, 0)}

STORE_NAMES = (
    "Ashford", "Birchwood", "Cedar Hill", "Dunmore", "Eastgate", "Fairview", "Glenwood", "Harborside", "Ironbridge",
    "Juniper Square", "Kingsway", "Lakeshore", "Millbrook", "Northfield", "Oak Park", "Pinecrest",
)  # fmt: skip

SALES_PER_SQUARE_FOOT = 5.0  # a week, all departments


@dataclass(frozen=True)
class MadeUpRetailer:
    """A made-up retailer.

    Attributes:
        stores: (S,) store numbers; store_type, size (square feet), region and store_names go with them.
        depts: (D,) department numbers; dept_names says what they sell.
        weeks: (T,) week-ending dates. sales: (S, D, T), NaN where the ETL wrote no row.
        feature_weeks: (F,) weeks and as many ahead as promotions are planned.
        promotion: (S, F) strength of the store's promotion, 0 .. 1, planned ahead.
        fuel_price, temperature: (S, T), observed, so not known ahead.
        holidays: (name, date), for the years of the data and the one after.
    """

    stores: NDArray[np.int64]
    store_type: NDArray[np.str_]
    size: NDArray[np.int64]
    region: NDArray[np.str_]
    store_names: tuple[str, ...]
    depts: NDArray[np.int64]
    dept_names: tuple[str, ...]
    weeks: NDArray[np.datetime64]
    sales: Floats
    feature_weeks: NDArray[np.datetime64]
    promotion: Floats
    fuel_price: Floats
    temperature: Floats
    holidays: tuple[tuple[str, dt.date], ...]

    def panel(self) -> Panel:
        """All sales as a panel."""
        sales = self.sales.reshape(-1, len(self.weeks))
        store = np.repeat(self.stores, len(self.depts)).astype(np.str_)
        dept = np.tile(self.depts, len(self.stores)).astype(np.str_)
        keep = ~np.isnan(sales).all(axis=1)
        return Panel(store[keep], dept[keep], self.weeks, sales[keep])


def make_retailer(
    seed: int = 0,
    stores: int = 12,
    depts: int = 14,
    first: dt.date = dt.date(2023, 1, 6),
    last: dt.date = dt.date(2025, 10, 31),
    weeks_ahead: int = 12,
) -> MadeUpRetailer:
    """The retailer of a seed; all randomness comes from it.

    Args:
        seed: same seed and arguments, same retailer.
        stores: S. Store types and regions are shared out over them.
        depts: D, the first of DEPARTMENTS, starting over (with another character) beyond their number.
        first, last: first and last week, by the date it ends on; the weekday is free, but one for both.
        weeks_ahead: weeks past `last` for which promotions are planned.

    Raises:
        ValueError: stores or depts below 1, or last is not a whole number of weeks after first.
    """
    if stores < 1 or depts < 1:
        raise ValueError(f"a retailer needs a store and a department; got {stores} and {depts}")
    if last < first or (last - first).days % 7:
        raise ValueError(f"last week {last} ({last:%A}) is not whole weeks after the first, {first} ({first:%A})")
    rng = np.random.default_rng(seed)
    known = np.datetime64(first, "D") + 7 * np.arange((last - first).days // 7 + 1 + weeks_ahead)
    weeks = known[: len(known) - weeks_ahead]
    kinds = [DEPARTMENTS[i % len(DEPARTMENTS)] for i in range(depts)]
    years = range(first.year, known[-1].astype(dt.date).year + 2)
    calendar = tuple(sorted(((n, d) for y in years for n, d in _events(y)), key=lambda item: item[1]))
    store_type, size, region = _stores(rng, stores)
    promotion = _promotions(rng, stores, len(known))

    share = np.array([kind.share for kind in kinds])
    affinity = np.exp(rng.normal(0, 0.25, (stores, depts)))
    level = (SALES_PER_SQUARE_FOOT * size[:, None] * share * affinity)[..., None]
    mean = (
        level
        * _growth(rng, stores, depts, len(weeks))
        * _season(kinds, region, weeks)
        * _holiday_lift(rng, kinds, calendar, weeks, stores)
        * _promotion_lift(rng, kinds, promotion[:, : len(weeks)])
    )
    sales = mean * _noise(rng, kinds, mean)
    _open_and_close(rng, sales)
    _blemish(rng, sales, level, kinds)
    fuel, temperature = _weather_and_fuel(rng, region, weeks)
    return MadeUpRetailer(
        stores=np.arange(1, stores + 1),
        store_type=store_type,
        size=size,
        region=region,
        store_names=tuple(_store_name(i) for i in range(stores)),
        depts=np.arange(1, depts + 1),
        dept_names=tuple(kind.name for kind in kinds),
        weeks=weeks,
        sales=np.round(sales, 2) + 0.0,  # no "-0.00"
        feature_weeks=known,
        promotion=promotion,
        fuel_price=fuel,
        temperature=temperature,
        holidays=tuple((name, day) for name, day in calendar if name not in NOT_A_HOLIDAY),
    )


def newest_finished_week(now: dt.datetime) -> dt.date:
    """The newest Friday week that is over at `now` (UTC), so that a demo ends where its viewer's calendar is."""
    return WeekCalendar(ends="FRI").last_started(now - dt.timedelta(days=1))


def bad_week(retailer: MadeUpRetailer, week: dt.date) -> tuple[int, str, bytes]:
    """What goes wrong once: the ETL missed a store in a week, and the store sent its own till's export, in which the
    sales are called "amount", so that it is refused.

    Returns:
        The store, for `history_files(without=...)`; landing key and bytes of its file.

    Raises:
        ValueError: week is not one of the retailer's weeks.
    """
    store = int(retailer.stores[len(retailer.stores) // 2])
    lines = [line for line in _sales_lines(retailer, [_position(retailer, week)]) if line.startswith(f"{store},")]
    export = _csv("store,dept,date,amount", (line.rpartition(",")[0] for line in lines))
    return store, f"sales/till_store_{store}_{week}.csv", export


def write_landing(retailer: MadeUpRetailer, folder: Path | str, recent: int = 4, dirty_rows: int = 6) -> list[Path]:
    """Write all files under `folder`: the history up to `recent` weeks before the end, then a file a week.

    Returns:
        The paths written, in the order the ETL would drop them.

    Raises:
        ValueError: recent leaves no week of history.
    """
    if not 0 <= recent < len(retailer.weeks):
        raise ValueError(f"recent is {recent}; of {len(retailer.weeks)} weeks at least one must be history")
    cut = len(retailer.weeks) - recent
    files = history_files(retailer, retailer.weeks[cut - 1].astype(dt.date), dirty_rows)
    files.update(week_file(retailer, week.astype(dt.date)) for week in retailer.weeks[cut:])
    paths = []
    for key, content in files.items():
        path = Path(folder, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def history_files(
    retailer: MadeUpRetailer, until: dt.date, dirty_rows: int = 6, without: tuple[int, dt.date] | None = None
) -> dict[str, bytes]:
    """What the ETL drops first: stores, features, holidays and sales up to `until`, as landing key -> bytes; without
    the rows of one store and week, where it missed one.

    `dirty_rows` extra lines are spread over the sales; without them the file is clean, so each belongs in
    quarantine. In turn: a copy of a row dated two days later (the wrong weekday), a copy with a letter in the
    number (1234O.50), and an exact repetition.

    Features reach past the last week as promotions are planned; fuel price and temperature, which no one
    knows ahead, are empty there.

    Raises:
        ValueError: until is not one of the retailer's weeks, or dirty_rows is negative or exceeds the rows.
    """
    end = _position(retailer, until) + 1
    lines = _sales_lines(retailer, range(end))
    if without:
        store, week = without
        lines = [line for line in lines if not (line.startswith(f"{store},") and f",{week}," in line)]
    if not 0 <= dirty_rows <= len(lines):
        raise ValueError(f"dirty_rows is {dirty_rows}; the history holds {len(lines)} rows")
    # Backwards, so that earlier positions stay put.
    for i in reversed(range(dirty_rows)):
        at = len(lines) * (i + 1) // (dirty_rows + 1)
        lines.insert(at + 1, _dirty(lines[at], i % 3))
    return {
        "stores/stores.csv": _stores_csv(retailer),
        "features/features.csv": _features_csv(retailer),
        "calendar/holidays.csv": _csv("name,date", (f"{name},{day}" for name, day in retailer.holidays)),
        "sales/sales_history.csv.gz": gzip.compress(_csv(SALES_HEADER, lines), mtime=0),
    }


def week_file(retailer: MadeUpRetailer, week: dt.date) -> tuple[str, bytes]:
    """Landing key and bytes of one week's sales. ValueError where it is not one of the retailer's weeks."""
    return f"sales/sales_{week}.csv", _csv(SALES_HEADER, _sales_lines(retailer, [_position(retailer, week)]))


# ----------------------------------------------------------------------------------------- causes of sales


def _stores(rng: np.random.Generator, n: int) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.str_]]:
    """Type, size and region of each store, in shares as even as n allows."""
    names = np.array(list(STORE_TYPES))
    bounds = np.cumsum([share for share, _, _ in STORE_TYPES.values()])
    kind = np.minimum(np.searchsorted(bounds, (np.arange(n) + 0.5) / n), len(names) - 1)
    kind = rng.permutation(kind)
    low, high = np.array([area for _, *area in STORE_TYPES.values()])[kind].T
    region = rng.permutation(np.array(list(REGIONS))[np.arange(n) % len(REGIONS)])
    return names[kind], rng.integers(low, high), region


def _store_name(number: int) -> str:
    again, which = divmod(number, len(STORE_NAMES))
    return STORE_NAMES[which] + (f" {again + 1}" if again else "")


def _growth(rng: np.random.Generator, stores: int, depts: int, weeks: int) -> Floats:
    """(S, D, T): yearly growth of store and department, and lasting shifts in level."""
    years = np.arange(weeks) / 52
    rate = rng.normal(0.02, 0.025, (stores, 1)) + rng.normal(0.01, 0.03, depts)
    growth = np.exp(rate[..., None] * years)
    # A tenth of the series were once moved to a better or worse spot in the store.
    moved = rng.random((stores, depts)) < 0.1
    size = np.where(moved, rng.choice([-0.25, -0.15, 0.15, 0.3], (stores, depts)), 0)
    since = rng.integers(weeks // 5, weeks, (stores, depts)) if weeks > 5 else np.zeros((stores, depts), int)
    growth *= 1 + size[..., None] * (np.arange(weeks) >= since[..., None])
    # One store is rebuilt: two months at three quarters, then an eighth more than before.
    start = int(weeks * rng.uniform(0.35, 0.6))
    rebuilt = np.where(np.arange(weeks) < start, 1, np.where(np.arange(weeks) < start + 8, 0.75, 1.125))
    growth[rng.integers(stores)] *= rebuilt
    return growth


def _season(kinds: list[Department], region: NDArray[np.str_], weeks: NDArray[np.datetime64]) -> Floats:
    """(S, D, T): the year's shape, a sum of bumps; they come earlier or later with the region."""
    day = (weeks - weeks.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    early = 7 * np.array([REGIONS[r][2] for r in region])[:, None]
    shape = np.ones((len(region), len(kinds), len(weeks)))
    for d, kind in enumerate(kinds):
        for peak, width, height in kind.season:
            distance = (day + early - peak + 182.625) % 365.25 - 182.625
            shape[:, d] += height * np.exp(-0.5 * (distance / width) ** 2)
    return shape


def _holiday_lift(
    rng: np.random.Generator,
    kinds: list[Department],
    calendar: Iterable[tuple[str, dt.date]],
    weeks: NDArray[np.datetime64],
    stores: int,
) -> Floats:
    """(S, D, T): 1 + extra sales. Each holiday's extra is spread over the shopping days before it and falls
    into the weeks of those days, which is what makes a moving holiday move sales between weeks."""
    names = list(LEAD_DAYS)
    spread = np.zeros((len(names), len(weeks)))
    for name, day in calendar:
        lead = LEAD_DAYS[name]
        days = np.datetime64(day, "D") - np.arange(lead, 0, -1)
        if name == "Black Friday":  # sells on the day itself
            days += 1
        weight = np.linspace(1, 2, lead)  # rising towards the day
        week = -((weeks[0] - days).astype(int) // 7)
        inside = (week >= 0) & (week < len(weeks))
        np.add.at(spread[names.index(name)], week[inside], weight[inside] / weight.sum())
    extra = np.array([[dict(kind.holidays).get(name, 0) for name in names] for kind in kinds])
    # Each store has its own taste for each holiday.
    taste = np.exp(rng.normal(0, 0.15, (stores, 1, len(names)))) * extra
    lift: Floats = 1 + taste @ spread
    return lift


def _promotions(rng: np.random.Generator, stores: int, weeks: int) -> Floats:
    """(S, F): strength of each store's promotion. Every three to eight weeks one runs everywhere, for a week
    or two; some are local."""
    begins = np.cumsum(rng.integers(3, 9, weeks))
    begins = begins[begins < weeks]
    strength = rng.choice([0.3, 0.5, 0.8, 1.0], len(begins))
    again = rng.random(len(begins)) < 0.5
    national = np.zeros(weeks + 1)
    national[begins] = strength
    national[begins[again] + 1] = strength[again]
    national = national[:weeks]
    local = np.where(rng.random((stores, weeks)) < 0.04, rng.choice([0.3, 0.5], (stores, weeks)), 0)
    return np.maximum(national, local)


def _promotion_lift(rng: np.random.Generator, kinds: list[Department], promotion: Floats) -> Floats:
    """(S, D, T): 1 + lift, less a sixth of it the week after, when people have stocked up."""
    after = np.pad(promotion, ((0, 0), (1, 0)))[:, :-1]
    lift = np.array([kind.promotion for kind in kinds]) * np.exp(rng.normal(0, 0.1, len(kinds)))
    return 1 + lift[:, None] * (promotion - after / 6)[:, None]


def _noise(rng: np.random.Generator, kinds: list[Department], mean: Floats) -> Floats:
    """(S, D, T): factors near 1. Three sources (the store's week, the department's week, the series' own),
    each remembering part of last week; the series' own is larger where sales are small."""
    stores, depts, weeks = mean.shape
    own = np.array([kind.noise for kind in kinds])[:, None]
    scale = own * (20_000 / np.maximum(np.abs(mean), 200)) ** 0.25
    series = _remembering(rng, (stores, depts, weeks), 0.4) * scale
    store_week = _remembering(rng, (stores, 1, weeks), 0.3) * 0.012
    dept_week = _remembering(rng, (1, depts, weeks), 0.5) * 0.012
    return np.exp(series + store_week + dept_week)


def _remembering(rng: np.random.Generator, shape: tuple[int, ...], memory: float) -> Floats:
    """First-order autoregression over the last axis, standard deviation 1."""
    x = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        x[..., t] = memory * x[..., t - 1] + np.sqrt(1 - memory**2) * x[..., t]
    return x


def _open_and_close(rng: np.random.Generator, sales: Floats) -> None:
    """Give some series a life shorter than the data, in place: the last store and a few departments open
    midway and take a season to find their level; a few departments close. One of each is certain if there is
    room."""
    stores, depts, weeks = sales.shape
    if stores < 2 or depts < 2 or weeks < 10:
        return
    t = np.arange(weeks)
    opens = np.zeros((stores, depts), int)
    closes = np.full((stores, depts), weeks)
    opens[-1] = weeks * 2 // 5
    late = rng.random((stores, depts)) < 0.04
    gone = ~late & (rng.random((stores, depts)) < 0.03)
    gone[:, 0] = False  # every store keeps its grocery
    middle = depts // 2
    late[0, middle], gone[0, middle], late[1, middle], gone[1, middle] = True, False, False, True
    opens[late] = rng.integers(weeks // 2, weeks * 9 // 10, late.sum())
    closes[gone] = rng.integers(weeks * 3 // 5, weeks * 19 // 20, gone.sum())
    age = t - opens[..., None]
    ramp = np.where(opens[..., None] > 0, 1 - 0.6 * np.exp(-np.maximum(age, 0) / 6), 1)
    sales *= ramp
    sales[(age < 0) | (t >= closes[..., None])] = np.nan


def _blemish(rng: np.random.Generator, sales: Floats, level: Floats, kinds: list[Department]) -> None:
    """Returns and rows that never came, in place."""
    stores, _, weeks = sales.shape
    # Now and then more comes back to a small department than it sells.
    returns = (rng.random(sales.shape) < 0.008) & (level > 0) & (level < 15_000)
    sales[returns] = (-rng.uniform(0.02, 0.3, sales.shape) * level)[returns]
    # Special orders: most weeks have none, and then no row.
    for d, kind in enumerate(kinds):
        if kind.name == "special orders":
            sales[:, d][rng.random((stores, weeks)) < 0.55] = np.nan
    sales[rng.random(sales.shape) < 0.004] = np.nan
    # A storm closes a store: no department reports that week.
    if weeks > 20:
        sales[rng.integers(stores, size=2), :, rng.integers(10, weeks - 10, size=2)] = np.nan


def _weather_and_fuel(
    rng: np.random.Generator, region: NDArray[np.str_], weeks: NDArray[np.datetime64]
) -> tuple[Floats, Floats]:
    """Fuel price (currency a gallon) and temperature (degrees Fahrenheit), (S, T), rounded as published."""
    day = (weeks - weeks.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    mean, swing = np.array([REGIONS[r][:2] for r in region]).T
    yearly = -np.cos(2 * np.pi * (day - 20) / 365.25)
    weather = 4 * _remembering(rng, (len(region), len(weeks)), 0.5)
    temperature = mean[:, None] + swing[:, None] / 2 * yearly + weather
    drift = 0.02 * np.cumsum(rng.normal(size=len(weeks)))
    fuel = 3.3 + 0.15 * yearly + drift + rng.normal(0, 0.1, (len(region), 1))
    return np.round(fuel, 3), np.round(temperature, 1)


def _events(year: int) -> list[tuple[str, dt.date]]:
    """The shopping events of a year, by US rules; the Super Bowl by the rule in force since 2022."""
    thanksgiving = _nth(year, 11, 3, 4)
    return [
        ("Super Bowl", _nth(year, 2, 6, 2)),
        ("Valentine's Day", dt.date(year, 2, 14)),
        ("Easter", _easter(year)),
        ("Memorial Day", _nth(year, 5, 0, 5)),
        ("Independence Day", dt.date(year, 7, 4)),
        ("Back to School", _nth(year, 8, 0, 4)),
        ("Labor Day", _nth(year, 9, 0, 1)),
        ("Halloween", dt.date(year, 10, 31)),
        ("Thanksgiving", thanksgiving),
        ("Black Friday", thanksgiving + dt.timedelta(days=1)),
        ("Christmas", dt.date(year, 12, 25)),
    ]


def _nth(year: int, month: int, weekday: int, n: int) -> dt.date:
    """The n-th such weekday of the month (Monday = 0), or the last one where there are fewer."""
    first = dt.date(year, month, 1)
    day = first + dt.timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))
    return day if day.month == month else day - dt.timedelta(days=7)


def _easter(year: int) -> dt.date:
    """Easter Sunday, by the Gregorian rule (J. Meeus, "Astronomical Algorithms", chapter 8)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    leap = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 19 * leap) // 433
    month = (h + leap - 7 * m + 90) // 25
    return dt.date(year, month, (h + leap - 7 * m + 33 * month + 19) % 32)


# --------------------------------------------------------------------------------------------------- files

SALES_HEADER = "store,dept,date,weekly_sales,is_holiday"


def _position(retailer: MadeUpRetailer, week: dt.date) -> int:
    at = np.flatnonzero(retailer.weeks == np.datetime64(week, "D"))
    if not at.size:
        first, last = retailer.weeks[[0, -1]]
        raise ValueError(f"{week} is not a week of this retailer; it has {first} .. {last}, every 7 days")
    return int(at[0])


def _sales_lines(retailer: MadeUpRetailer, weeks: Iterable[int]) -> list[str]:
    """A line for each observed cell, week by week as the ETL appended them."""
    holiday = [np.datetime64(day, "D") for _, day in retailer.holidays]
    lines = []
    for t in weeks:
        week = retailer.weeks[t]
        flag = "TRUE" if any(week - 7 < day <= week for day in holiday) else "FALSE"
        for s, d in zip(*np.nonzero(~np.isnan(retailer.sales[:, :, t])), strict=True):
            value = retailer.sales[s, d, t]
            lines.append(f"{retailer.stores[s]},{retailer.depts[d]},{week},{value:.2f},{flag}")
    return lines


def _dirty(line: str, kind: int) -> str:
    store, dept, date, sales, flag = line.split(",")
    if kind == 0:
        date = f"{dt.date.fromisoformat(date) + dt.timedelta(days=2)}"
    elif kind == 1:
        sales = f"{sales[:-3]}O{sales[-3:]}"  # the letter O for a zero
    return ",".join((store, dept, date, sales, flag))


def _stores_csv(retailer: MadeUpRetailer) -> bytes:
    attributes = (retailer.store_names, retailer.store_type, retailer.size, retailer.region)
    rows = zip(retailer.stores, *attributes, strict=True)
    return _csv("store,name,type,size,region", (",".join(map(str, row)) for row in rows))


def _features_csv(retailer: MadeUpRetailer) -> bytes:
    ahead = len(retailer.feature_weeks) - len(retailer.weeks)
    observed = [np.pad(x, ((0, 0), (0, ahead)), constant_values=np.nan) for x in
                (retailer.fuel_price, retailer.temperature)]  # fmt: skip
    lines = (
        f"{store},{week},{retailer.promotion[s, t]:g},"
        + ",".join("" if np.isnan(x[s, t]) else f"{x[s, t]:g}" for x in observed)
        for s, store in enumerate(retailer.stores)
        for t, week in enumerate(retailer.feature_weeks)
    )
    return _csv("store,date,promotion,fuel_price,temperature", lines)


def _csv(header: str, lines: Iterable[str]) -> bytes:
    return ("\n".join([header, *lines]) + "\n").encode()
