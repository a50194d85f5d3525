"""From the panel to DeepAR's records: ragged targets and dense categories."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform import deepar
from forecast_platform.history.panel import Panel, natural_key
from forecast_platform.weeks import WEEK


@dataclass(frozen=True)
class Categories:
    """Codes of stores and departments. DeepAR wants every code 0 .. cardinality-1 to occur in training, so the codes
    belong to the model and are stored with it.

    Attributes:
        stores, depts: names in the order of their codes.
        stand_ins: codes for a store and for a department that the model never saw. None: the code is `cardinality`, for
            which our engine takes the average embedding; Amazon's refuses it.
    """

    stores: tuple[str, ...]
    depts: tuple[str, ...]
    stand_ins: tuple[int, int] | None = None

    @classmethod
    def of(cls, *panels: Panel, stand_ins: bool = False) -> Categories:
        """The codes for panels to train on.

        Args:
            stand_ins: names never seen get the code of the store (or department) with the most series.
        """
        both = [np.concatenate([getattr(panel, name) for panel in panels]) for name in ("store", "dept")]
        known = cls(*(tuple(sorted(set(names.tolist()), key=natural_key)) for names in both))
        if not stand_ins:
            return known
        codes = np.concatenate([known.encode(panel) for panel in panels])
        store, dept = (int(np.bincount(column).argmax()) for column in codes.T)
        return replace(known, stand_ins=(store, dept))

    def encode(self, panel: Panel) -> NDArray[np.int64]:
        """Codes (store, dept), shape (N, 2); see `stand_ins` for names the model never saw."""
        store, dept = self.stand_ins or (len(self.stores), len(self.depts))
        return np.stack([_encode(panel.store, self.stores, store), _encode(panel.dept, self.depts, dept)], axis=1)

    def to_json(self) -> dict[str, Any]:
        return {"stores": list(self.stores), "depts": list(self.depts), "stand_ins": self.stand_ins}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Categories:
        stand_ins = data.get("stand_ins")
        return cls(tuple(data["stores"]), tuple(data["depts"]), stand_ins and (int(stand_ins[0]), int(stand_ins[1])))


def _encode(names: NDArray[np.str_], known: tuple[str, ...], unknown: int) -> NDArray[np.int64]:
    codes = {name: code for code, name in enumerate(known)}
    distinct, inverse = np.unique(names, return_inverse=True)
    return np.array([codes.get(str(name), unknown) for name in distinct], dtype=np.int64)[inverse]


def ragged(panel: Panel) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each series from its first observation to the panel's end: flat values and indptr, shapes (M,) and (N+1,)."""
    keep = np.arange(len(panel.weeks)) >= panel.first[:, None]
    return panel.sales[keep], np.concatenate([[0], np.cumsum(keep.sum(axis=1))])


def to_series_set(
    panel: Panel, categories: Categories, features: NDArray[np.floating] | None = None
) -> deepar.SeriesSet:
    """The panel as DeepAR's input: series start at their first week and end at the panel's cutoff.

    Args:
        features: complete covariates over the same weeks, shape (F, N, T) to train on, (F, N, T + H) to forecast with.
    """
    series = deepar.SeriesSet.from_arrays(
        start=panel.weeks[panel.first], targets=ragged(panel), cat=categories.encode(panel), dynamic_feat=None
    )
    if features is None or not len(features):
        return series
    keep = np.arange(features.shape[-1]) >= panel.first[:, None]
    flat = np.moveaxis(features, 0, -1)[keep].astype(np.float32)
    series = replace(series, dynamic_feat=flat, feat_indptr=np.concatenate([[0], np.cumsum(keep.sum(axis=1))]))
    series.validate()
    return series


def digest(panel: Panel, *context: str) -> str:
    """Content hash of a panel and of whatever else decides a result (hyperparameters, seed, versions).

    Plans and holidays reach past the panel's end. Only what bears on its own weeks is hashed, so the same history with
    later plans has the same digest.
    """
    content = hashlib.sha256()
    for text in ("\0".join(panel.store.tolist()), "\0".join(panel.dept.tolist()), *context):
        content.update(hashlib.sha256(text.encode()).digest())
    content.update(panel.weeks.astype("datetime64[D]").astype("<i8").tobytes())
    content.update(panel.sales.astype("<f8").tobytes())
    for part in (panel.covariates, panel.exposure):
        if part is not None:
            content.update(repr(part.columns).encode())
            content.update(part.values[:, :, : len(panel.weeks)].astype("<f8").tobytes())
            content.update(repr(panel.active_weeks).encode())  # decides which series must have values
    if panel.filled is not None and panel.filled.any():
        content.update(panel.filled.tobytes())
    for event in panel.events or ():
        # Sales rise towards an event, so the one to come bears on the last weeks.
        near = panel.weeks[-1].astype(dt.date) + event.before * WEEK
        content.update(repr((event.name, event.before, event.after, [d for d in event.dates if d <= near])).encode())
    return content.hexdigest()[:20]
