"""Work for Spark's workers, which import it; each does harm once, in the way its name says, and is right in the end.

A marker is a file that the first attempt leaves behind.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    """A number to be doubled, and a folder for markers."""

    number: int
    folder: Path


def first(item: Item) -> bool:
    """Whether this is the first attempt at the item. Every attempt leaves a marker."""
    before = attempts(item)
    (item.folder / f"{item.number}.{before}").touch(exist_ok=False)
    return not before


def attempts(item: Item) -> int:
    return len(list(item.folder.glob(f"{item.number}.*")))


def doubled(item: Item) -> int:
    first(item)
    return 2 * item.number


def process(item: Item) -> tuple[int, int]:
    """Of the worker, and of the JVM it belongs to."""
    return os.getpid(), executor()


def executor() -> int:
    """A worker is forked by pyspark's daemon, which its executor has started."""
    daemon = os.getppid()
    status = Path(f"/proc/{daemon}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def passed_over(_: Item) -> int:
    """Objects that a search for garbage leaves alone."""
    return gc.get_freeze_count()


def kills_its_worker(item: Item) -> int:
    if first(item) and item.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item.number


def kills_its_executor(item: Item) -> int:
    if first(item) and item.number == 1:
        os.kill(executor(), signal.SIGKILL)
    return 2 * item.number


def fails_once(item: Item) -> int:
    if first(item) and item.number == 1:
        raise OSError("the folder is away")
    return 2 * item.number


def always_fails(item: Item) -> int:
    first(item)
    if item.number == 1:
        raise OSError("the folder is away for good")
    return 2 * item.number


def refuses(item: Item) -> int:
    first(item)
    if item.number == 1:
        raise ValueError("promo has no value for the week of 2024-05-03")
    return 2 * item.number
