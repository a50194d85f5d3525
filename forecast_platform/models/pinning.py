"""A pinned model: one trained earlier, named by its version, serves. Rolling back is pinning."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any


class PinRefused(ValueError):
    """The pinned model can't serve the week; the message names those that can."""


def pinned_training(models: Iterable[Mapping[str, Any]], version: str, week: dt.date) -> str:
    """The training digest (the key of Engine.model) of the model with a version.

    Args:
        models: rows of the models table: version, trained_as_of, training_digest.
        week: the cutoff.

    Raises:
        PinRefused: there is no such version, or it was trained on weeks after `week`.
    """
    rows = sorted(models, key=lambda row: (row["trained_as_of"], row["training_digest"]))
    usable = {row["version"]: row["trained_as_of"] for row in rows if row["trained_as_of"] <= week}
    offer = ", ".join(f"{name} (trained as of {when})" for name, when in usable.items()) or "none"
    found = [row for row in rows if row["version"] == version]
    if not found:
        raise PinRefused(f"the pinned model {version!r} is not in the models table; for {week} there are: {offer}")
    if version not in usable:
        raise PinRefused(
            f"the pinned model {version} was trained as of {found[0]['trained_as_of']} and so knows the future of "
            f"{week}; for {week} there are: {offer}"
        )
    return next(str(row["training_digest"]) for row in found if row["trained_as_of"] <= week)
