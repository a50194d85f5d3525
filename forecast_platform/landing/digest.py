"""One short text for what decides how files are read: it changes exactly when one of the settings does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any


def reading_digest(*deciders: Any) -> str:
    """Digest of what decides how a file is read and judged: dataclasses and plain values, whatever their fields."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, set | frozenset):
            return sorted(map(str, value))
        return value if isinstance(value, str | int | float | bool | None) else str(value)

    text = json.dumps([plain(d) for d in deciders], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
