"""Errors that a person can mend, in a line that says how; anything else is a bug of ours and keeps its traceback."""

from __future__ import annotations

import errno
import re

_OURS = ("forecast_platform", "botocore")
# What the operating system says, in an error of its own or inside another program's text; and what to do about it.
_REMEDIES = (
    (
        (errno.ENOSPC, errno.EDQUOT),
        r"no space left|disk is full|disk quota",
        "the disk is full: free some space (forecast doctor says how much there is), or move FORECAST_HOME to another",
    ),
    (
        (errno.EACCES, errno.EPERM, errno.EROFS),
        r"permission denied|operation not permitted|read-only file system|readonly database",
        "it may not be written or read: give this user the right to it, or set FORECAST_HOME to a folder of their own",
    ),
    (
        (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EISDIR),
        r"unable to open database file",
        "there is no such folder and none can be made: does FORECAST_HOME name a folder?",
    ),
    ((), r"file is not a database|malformed", "the file is damaged: put back a copy of FORECAST_HOME"),
)


def remedy(text: str, number: int | None = None) -> str:
    """What to do about an error of the machine, by its number or by its text; empty for any other."""
    for numbers, pattern, advice in _REMEDIES:
        if number in numbers or re.search(pattern, text, re.IGNORECASE):
            return advice
    return ""


def in_words(error: BaseException, home: str) -> str | None:
    """The line to show for an error, or None where the traceback is what is needed.

    Args:
        home: the folder of all state, for errors that do not say which file they are about.
    """
    module = type(error).__module__
    # Our own errors say in their text how to mend them, and AWS's what was denied or missing.
    if module.startswith(_OURS):
        return str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return _with(text, remedy(str(error), error.errno))
    if module.startswith(("sqlalchemy", "sqlite3")):
        cause = str(getattr(error, "orig", None) or error)
        return _with(f"a database under {home} (lake/catalog.db, or Dagster's own): {cause}", remedy(cause))
    if module.startswith("yaml"):
        return f"{home}/dagster/dagster.yaml is no YAML: {error}\nMend it, or delete it: a fresh one is then written"
    return None


def _with(text: str, advice: str) -> str:
    return f"{text}; {advice}" if advice else text
