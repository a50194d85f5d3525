"""The lake on disk: Iceberg tables under a home's `lake` folder, their catalog in SQLite beside them.

Iceberg writes down the whole address of every file, as it was when the table was made. To us such an address is only a
name: what counts is the part from the table's own folder on (`forecast/raw_sales/data/...`), and that is looked up in
the folder of the catalog that was opened. So a home that was moved or copied works where it lies, two copies know
nothing of each other, and no file outside the home is ever read, written or deleted for a table, whatever its metadata
says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO

from forecast_platform.lake.files import Inside
from forecast_platform.lake.guard import check, hold
from forecast_platform.lake.tables import LOCAL, NAMESPACE, LakeError

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.table import Table
    from pyiceberg.typedef import Identifier, Properties


class HomeFiles(PyArrowFileIO):
    """pyiceberg's access to files, below one warehouse and nowhere else. Its property "warehouse" says which."""

    def __init__(self, properties: Properties) -> None:
        super().__init__(properties)
        self._inside = Inside(properties["warehouse"].removeprefix(LOCAL))

    def parse_location(  # type: ignore[override]  # a static method there, but always called on an instance
        self, location: str, properties: Properties | None = None
    ) -> tuple[str, str, str]:
        """(scheme, host, path) of a file, in this warehouse. Raises OutsideHome."""
        return "file", "", self._inside.path(location)


class Catalog(SqlCatalog):
    """The tables of one home.

    Raises:
        LakeError: a table is not whole here, or its metadata names a place that is no part of a home.
    """

    def __init__(self, warehouse: Path) -> None:
        properties = {"warehouse": f"{LOCAL}{warehouse}", "py-io-impl": f"{__name__}.{HomeFiles.__name__}"}
        self._files = HomeFiles(properties)
        self._held = hold(warehouse)  # as long as the catalog is open
        super().__init__(NAMESPACE, uri=f"sqlite:///{warehouse / 'catalog.db'}?timeout=30", **properties)

    def _load_file_io(self, properties: Properties | None = None, location: str | None = None) -> FileIO:
        return self._files  # a table's own properties cannot send it elsewhere

    def load_table(self, identifier: str | Identifier) -> Table:
        try:
            table = super().load_table(identifier)
            self._files.parse_location(table.location())
        except FileNotFoundError as error:
            raise LakeError(
                f"{self.properties['warehouse'].removeprefix(LOCAL)} is no whole copy of a home: the table "
                f"{identifier[-1]} lacks {error.filename or error}. Copy the home again while nothing writes to it, or "
                "with forecast backup and forecast restore"
            ) from error
        return table

    def close(self) -> None:
        super().close()
        self._held.close()


def local_catalog(warehouse: Path) -> Catalog:
    """Iceberg catalog in SQLite under `warehouse`, beside its tables.

    Raises:
        LakeError: the folder shares its catalog with another home, or is one that was not restored to its end.
    """
    if set("?#") & set(str(warehouse)):
        raise LakeError(f"the lake's folder is {warehouse}; ? and # cannot be part of a table's address, rename it")
    check(warehouse)
    warehouse.mkdir(parents=True, exist_ok=True)
    # Two processes creating the catalog's tables at once can hang, so creation is done under a lock. The default
    # wait of 5 s for SQLite's write lock ends in "database is locked" when several runs commit; 30 s does not.
    # The address is not Path.as_uri(): pyiceberg would take its %20 for the folder's name and write beside `warehouse`.
    with FileLock(warehouse / ".catalog.lock", timeout=60):
        catalog = Catalog(warehouse)
        catalog.create_namespace_if_not_exists(NAMESPACE)
    return catalog
