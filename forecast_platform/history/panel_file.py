"""A panel as one file, to train on another machine: panel.npz, without pickle, exact to the last bit.

Equal panels give equal bytes. The loaded panel has the training key of the saved one, so a model trained elsewhere has
the address it would have here.

| array | what |
|---|---|
| header | JSON in UTF-8: version, columns of covariates and exposure, events, active_weeks, levels |
| store, dept, weeks, sales | as in Panel |
| covariates, exposure | their values, where there are any |
| filled, returns | as in Panel, where they are given |
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.holidays import Event
from forecast_platform.history.panel import Panel
from forecast_platform.levels import Level

NAME = "panel.npz"
_VERSION = 2
_PARTS = ("covariates", "exposure")


class PanelFileError(ValueError):
    """The file holds no whole panel; the message says what is wrong with it."""


def save_panel(panel: Panel, folder: Path) -> Path:
    """Write the panel to `folder`, whole or not at all; returns the file."""
    parts = {name: part for name in _PARTS if (part := getattr(panel, name)) is not None}
    header = {
        "version": _VERSION,
        **{name: [dataclasses.asdict(column) for column in part.columns] for name, part in parts.items()},
        "events": None if panel.events is None else [_event_to_json(event) for event in panel.events],
        "active_weeks": panel.active_weeks,
        "levels": [dataclasses.asdict(level) for level in panel.levels],
    }
    arrays: dict[str, Any] = {
        "header": np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8),
        "store": _text(panel.store),
        "dept": _text(panel.dept),
        "weeks": panel.weeks.astype("<M8[D]"),
        "sales": _plain(panel.sales),
        **{name: _plain(part.values) for name, part in parts.items()},
        **({} if panel.filled is None else {"filled": np.ascontiguousarray(panel.filled)}),
        **({} if panel.returns is None else {"returns": _plain(panel.returns)}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{NAME}.{secrets.token_hex(4)}"
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # its zip members carry no time of their own
        os.replace(temporary, folder / NAME)
    finally:
        temporary.unlink(missing_ok=True)
    return folder / NAME


def load_panel(folder: Path) -> Panel:
    """The panel that `save_panel` wrote to `folder`.

    Raises:
        PanelFileError: there is none, it is damaged, or written by another version of this code.
    """
    path = folder / NAME
    try:
        with np.load(path, allow_pickle=False) as file:
            # First: numpy believes the header of an array, and need not come to where its checksum is looked at.
            if damaged := file.zip.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} is another")
            arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
        header = json.loads(arrays["header"].tobytes())
        if header["version"] != _VERSION:
            raise PanelFileError(f"{path} has version {header['version']}; this code reads version {_VERSION}")
        parts = {
            name: Covariates(tuple(Declaration(**column) for column in header[name]), arrays[name])
            for name in _PARTS
            if name in header
        }
        events = None if header["events"] is None else tuple(_event_from_json(event) for event in header["events"])
        store, dept, weeks, sales = (arrays[name] for name in ("store", "dept", "weeks", "sales"))
        levels = tuple(Level(**{**level, "by": tuple(level["by"])}) for level in header["levels"])
        panel = Panel(
            *(store, dept, weeks, sales, parts.get("covariates"), parts.get("exposure"), events),
            filled=arrays.get("filled"),
            returns=arrays.get("returns"),
            levels=levels,
            active_weeks=header["active_weeks"],
        )
    except FileNotFoundError as error:
        raise PanelFileError(f"{path}: there is no such file; save_panel writes it") from error
    except PanelFileError:
        raise
    except Exception as error:  # damage may raise anything
        raise PanelFileError(f"{path} is no whole panel file ({error}); write it again with save_panel") from error
    _check(panel, path)
    return panel


def _check(panel: Panel, path: Path) -> None:
    """Shapes and types as Panel says; what passes came from save_panel or could have."""
    n, t = len(panel.store), len(panel.weeks)
    found = [panel.store.shape, panel.dept.shape, panel.weeks.shape, panel.sales.shape]
    right = found == [(n,), (n,), (t,), (n, t)] and n > 0 and t > 0
    kinds = "".join(array.dtype.kind for array in (panel.store, panel.dept, panel.weeks, panel.sales))
    for part in (panel.covariates, panel.exposure):
        if part is not None:
            shape = part.values.shape
            right = right and len(shape) == 3 and shape[:2] == (len(part.columns), n) and part.values.dtype.kind == "f"
    if panel.filled is not None:
        right = right and panel.filled.shape == (n, t) and panel.filled.dtype.kind == "b"
    if not right or kinds != "UUMf":
        raise PanelFileError(f"{path} holds arrays that do not fit together: {found}; write it again with save_panel")
    if (np.diff(panel.weeks).astype(np.int64) != 7).any() or not panel.observed.any(axis=1).all():
        raise PanelFileError(f"{path}: weeks are not seven days apart, or a series holds no observation")


def _plain(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Little-endian and in C order, so that equal values are equal bytes."""
    return np.ascontiguousarray(values, dtype="<f8")


def _text(names: NDArray[np.str_]) -> NDArray[np.str_]:
    """Text as wide as its longest name. A selection of a panel keeps the wider type; its bytes must not differ."""
    return np.array(names.tolist(), dtype=np.str_)


def _event_to_json(event: Event) -> dict[str, Any]:
    return {**dataclasses.asdict(event), "dates": [day.isoformat() for day in event.dates]}


def _event_from_json(data: dict[str, Any]) -> Event:
    return Event(**{**data, "dates": tuple(dt.date.fromisoformat(day) for day in data["dates"])})
