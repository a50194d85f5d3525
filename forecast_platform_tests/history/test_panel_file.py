"""The panel file: exact, byte-stable, and refused unless whole."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import pickle
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.holidays import Event
from forecast_platform.history.panel import Panel
from forecast_platform.history.panel_file import NAME, PanelFileError, load_panel, save_panel
from forecast_platform.levels import Level
from forecast_platform.models import trained
from forecast_platform.models.encoding import digest
from forecast_platform.models.registry import plans
from forecast_platform.settings import Settings

names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
sales = st.floats(width=64, allow_nan=False) | st.just(float("nan"))
declarations = st.builds(
    Declaration,
    name=names,
    known=st.booleans(),
    fill=st.none() | st.just("last") | st.floats(allow_nan=False, allow_infinity=False),
    declared=st.booleans(),
)
days = st.lists(st.dates(dt.date(2000, 1, 1), dt.date(2030, 1, 1)), max_size=4).map(lambda d: tuple(sorted(d)))
events = st.none() | st.lists(st.builds(Event, names, days, st.integers(0, 3), st.integers(0, 3)), max_size=3).map(
    tuple
)


@st.composite
def panels(draw) -> Panel:
    n, t, ahead = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(0, 3))
    first = np.datetime64(draw(st.dates(dt.date(1990, 1, 1), dt.date(2040, 1, 1))))

    def grid(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        values = np.array(draw(st.lists(sales, min_size=size, max_size=size))).reshape(shape)
        return np.asfortranarray(values) if draw(st.booleans()) else values

    def columns(least: int, most: int) -> Covariates | None:
        found = tuple(draw(st.lists(declarations, min_size=least, max_size=most)))
        return Covariates(found, grid(len(found), n, t + ahead)) if found else None

    history = grid(n, t)
    history[np.isnan(history).all(axis=1), -1] = 1.0
    identifiers = np.array(draw(st.lists(names, min_size=2 * n, max_size=2 * n))).astype("<U9")
    weeks = first + 7 * np.arange(t)
    covariates, exposure = columns(0, 2), columns(1, 1) if draw(st.booleans()) else None
    filled = (history == 0) & np.array(draw(st.lists(st.booleans(), min_size=t, max_size=t)))
    return Panel(
        *(identifiers[:n], identifiers[n:], weeks, history, covariates, exposure, draw(events)),
        filled=filled if draw(st.booleans()) else None,
        active_weeks=draw(st.integers(1, 60)),
    )


@settings(derandomize=True, deadline=None)
@given(panels())
def test_a_round_trip_changes_no_bit_and_equal_panels_are_equal_bytes(panel):
    with TemporaryDirectory() as folder:
        file = save_panel(panel, Path(folder) / "a")
        loaded = load_panel(Path(folder) / "a")
        again = save_panel(loaded, Path(folder) / "b")
        assert file.read_bytes() == again.read_bytes()
        assert [p.name for p in (Path(folder) / "a").iterdir()] == [NAME]
    assert digest(loaded) == digest(panel)
    assert loaded.store.tolist() == panel.store.tolist()
    assert loaded.dept.tolist() == panel.dept.tolist()
    assert loaded.weeks.tolist() == panel.weeks.tolist()
    assert loaded.sales.tobytes() == np.ascontiguousarray(panel.sales).tobytes()
    assert repr(loaded.events) == repr(panel.events)
    assert loaded.active_weeks == panel.active_weeks
    assert loaded.last_row.tolist() == panel.last_row.tolist()  # which zeros are ours
    for before, after in ((panel.covariates, loaded.covariates), (panel.exposure, loaded.exposure)):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert repr(after.columns) == repr(before.columns)
            assert after.values.tobytes() == np.ascontiguousarray(before.values).tobytes()


@pytest.fixture(scope="module")
def promoted() -> Panel:
    """What the platform trains on: covariates known ahead, an exposure, holidays, unequal series."""
    rng = np.random.default_rng(0)
    history = rng.uniform(10, 90, (6, 60)).round(2)
    history[2, :20] = np.nan
    columns = Covariates((Declaration("promo", True, 0.0), Declaration("rain", False)), rng.uniform(size=(2, 6, 70)))
    open_days = Covariates((Declaration("open_days", declared=False),), np.full((1, 6, 70), 6.0))
    fair = (Event("Fair", (dt.date(2022, 6, 2), dt.date(2023, 6, 9))),)
    weeks = np.datetime64("2022-01-07") + 7 * np.arange(60)
    levels = (Level("region", of="store", values={"1": "Nörd"}), Level("kind", of="dept"))
    names = np.array(list("111222")), np.array(list("abcabc"))
    return Panel(*names, weeks, history, columns, open_days, fair, levels=levels)


def test_levels_come_along_and_are_no_reason_to_train_again(promoted, tmp_path):
    save_panel(promoted, tmp_path)
    assert load_panel(tmp_path).levels == promoted.levels
    assert promoted.until(dt.date(2022, 12, 30)).levels == promoted.levels
    assert digest(dataclasses.replace(promoted, levels=())) == digest(promoted)


def test_the_loaded_panel_has_the_training_key_of_the_saved_one(promoted, tmp_path):
    save_panel(promoted, tmp_path)
    loaded = load_panel(tmp_path)
    key = functools.partial(trained.training_key, candidates=plans(Settings(prediction_length=8)), num_samples=50)
    assert key(loaded) == key(promoted)
    # The past of a loaded panel is the past: training elsewhere judges over the same windows.
    cutoff = promoted.weeks[-9].astype(dt.date)
    assert key(loaded.until(cutoff)) == key(promoted.until(cutoff)) != key(promoted)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_file_is_refused_or_harmless(promoted, data):
    """Cut anywhere it is refused; one bit flipped anywhere it is refused or says the same, but never something else."""
    with TemporaryDirectory() as name:
        file = save_panel(promoted, Path(name))
        whole = file.read_bytes()
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(PanelFileError, match="no whole panel file"):
            load_panel(Path(name))
        flipped = bytearray(whole)
        flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(flipped)
        with contextlib.suppress(PanelFileError):
            assert digest(load_panel(Path(name))) == digest(promoted)


def test_any_bit_of_an_array_s_own_header_may_be_damaged(promoted, tmp_path):
    """numpy reads it as Python source, and a large array by what it says, before the archive's checksum can tell."""
    whole = save_panel(promoted, tmp_path).read_bytes()
    start = whole.index(b"\x93NUMPY", whole.index(b"covariates.npy"))
    end = whole.index(b"\n", start)
    for at in range(start, end + 1):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            (tmp_path / NAME).write_bytes(flipped)
            with contextlib.suppress(PanelFileError):
                assert digest(load_panel(tmp_path)) == digest(promoted)
    assert end - start > 100


def test_other_files_are_refused(promoted, tmp_path):
    with pytest.raises(PanelFileError, match=r"panel.npz: there is no such file"):
        load_panel(tmp_path)
    file = tmp_path / NAME
    for content in (b"", b"not a zip", pickle.dumps({"a": 1}), struct.pack("<8Q", *range(8))):
        file.write_bytes(content)
        with pytest.raises(PanelFileError, match="no whole panel file"):
            load_panel(tmp_path)
    np.save(file.with_suffix(".npy"), np.ones(3))
    file.with_suffix(".npy").replace(file)
    with pytest.raises(PanelFileError, match="no whole panel file"):
        load_panel(tmp_path)
    save_panel(promoted, tmp_path)
    with np.load(file) as arrays:
        members = dict(arrays)
    header = members["header"].tobytes()

    def rewrite(**changes: np.ndarray) -> None:
        np.savez(file, **{**members, **changes})

    for changes, message in (
        ({"header": np.frombuffer(header.replace(b'"version": 2', b'"version": 1'), np.uint8)}, "has version 1"),
        ({"sales": members["sales"][:, 1:]}, "do not fit together"),
        ({"covariates": members["covariates"][:, :5]}, "do not fit together"),
        ({"filled": np.zeros((6, 59), bool)}, "do not fit together"),
        ({"store": np.arange(6)}, "do not fit together"),
        ({"store": np.array([None] * 6, dtype=object)}, "no whole panel file"),
        ({"sales": np.full((6, 60), np.nan)}, "a series holds no observation"),
        ({"weeks": members["weeks"][::-1]}, "not seven days apart"),
    ):
        rewrite(**changes)
        with pytest.raises(PanelFileError, match=message):
            load_panel(tmp_path)
