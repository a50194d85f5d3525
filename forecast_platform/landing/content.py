"""What a landed file holds, in memory or where it lies; read in parts, so that a file may be larger than memory."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

BLOCK = 1 << 24  # bytes read at one time
_IN_MEMORY = 1 << 26  # bytes of unpacked text that may stay in memory


class Content:
    """Bytes that can be sliced and searched like `bytes`.

    Args:
        data: the bytes, the file they are in, or an open one.
        start: where they start in it.
    """

    def __init__(self, data: bytes | Path | IO[bytes] | Content, start: int = 0) -> None:
        self.file: IO[bytes]
        self._start = start
        if isinstance(data, Content):
            self.file, self._start = data.file, data._start + start
        elif isinstance(data, Path):
            self.file = data.open("rb")
        else:
            self.file = io.BytesIO(data) if isinstance(data, bytes) else data
        self._size = self.file.seek(0, io.SEEK_END) - self._start

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        self.file.seek(self._start + start)
        return self.file.read(max(stop - start, 0))

    def rewound(self) -> IO[bytes]:
        """The whole file from its beginning."""
        self.file.seek(0)
        return self.file

    def blocks(self) -> Iterator[bytes]:
        for start in range(0, self._size, BLOCK):
            yield self[start : start + BLOCK]

    def find(self, byte: bytes, start: int) -> int:
        """Where the byte is first from there on; -1: nowhere."""
        for at in range(start, self._size, BLOCK):
            if (found := self[at : at + BLOCK].find(byte)) >= 0:
                return at + found
        return -1


def kept(parts: Iterable[bytes]) -> Content:
    """Bytes that come in parts: few stay in memory, more go to a temporary file."""
    file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (it lives as long as what is made of it)
    for part in parts:
        file.write(part)
    return Content(file)
