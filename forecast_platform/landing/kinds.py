"""The kinds of files that land, the columns of each, and what reading one gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from forecast_platform.landing.by_week import ByWeek

KINDS = ("sales", "stores", "departments", "features", "calendar")
ATTRIBUTES = {"stores": "store", "departments": "dept"}  # kinds that say what stores and departments are, and of which
FORMATS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".zip", ".xlsx", ".parquet")
CANONICAL = ("store", "dept", "date", "weekly_sales", "is_holiday", "name")


def one_of(text: str) -> frozenset[str]:
    """Words that are written with | between them."""
    return frozenset(text.split("|"))


# Names that say which column is meant. They are proposed, never taken: a wrong guess would be a wrong number.
SYNONYMS = {
    "store": one_of(
        "shop|branch|outlet|location|site|store id|store nbr|store number|store no|shop id|shop no|outlet id|branch id|"
        "filiale|filialnr|filial nr|filialnummer|markt|markt nr|laden|standort|verkaufsstelle|magasin|point de vente|"
        "tienda|sucursal|punto de venta|negozio|punto vendita|loja|filial|butik|butikk|winkel|vestiging|sklep|prodejna|"
        "kauppa|mağaza|магазин|店舗|店铺|门店|門市|매장|점포"
    ),
    "dept": one_of(
        "department|dept id|dept nbr|department id|category|category id|product|product id|product group|"
        "product category|item|item id|item nbr|family|sku|article|group|section|"
        "warengruppe|abteilung|artikel|artikelnr|artikel nr|artikelnummer|produkt|produktgruppe|sparte|kategorie|rayon|"
        "produit|famille|catégorie|departamento|producto|artículo|categoría|sección|reparto|prodotto|articolo|"
        "categoria|produto|artigo|seção|afdeling|productgroep|avdelning|avdeling|varugrupp|varegruppe|kategori|dział|"
        "kategoria|oddělení|osasto|reyon|ürün|отдел|товар|категория|部門|部门|商品|品类|부서|상품|품목"
    ),
    "date": one_of(
        "week|day|week ending|week end|weekending|week ended|week date|week start|week starting|week begin|"
        "week beginning|week commencing|ds|timestamp|period|order date|sales date|transaction date|invoice date|"
        "datum|woche|wochenende|woche ab|woche bis|kalenderwoche|kw|tag|verkaufstag|verkaufsdatum|belegdatum|"
        "rechnungsdatum|buchungsdatum|semaine|semaine du|jour|date de vente|fecha|semana|día|fecha de venta|settimana|"
        "data|giorno|data di vendita|dia|weekeinde|vecka|uke|uge|dato|tydzień|týden|viikko|päivä|tarih|hafta|дата|"
        "неделя|日付|日期|週|周|주|날짜|주차"
    ),
    "weekly_sales": one_of(
        "sales|weekly sales|weeklysales|sales amount|sales value|total sales|amount|revenue|turnover|units|unit sales|"
        "units sold|quantity|qty|value|y|net sales|gross sales|umsatz|nettoumsatz|bruttoumsatz|umsatz netto|"
        "umsatz brutto|wochenumsatz|tagesumsatz|betrag|menge|stück|stückzahl|anzahl|absatz|ventes|montant|quantité|"
        "chiffre d affaires|ventas|importe|cantidad|unidades|vendite|fatturato|importo|quantità|vendas|faturamento|"
        "quantidade|omzet|aantal|försäljning|omsättning|omsetning|omsætning|salg|sprzedaż|obrót|tržby|myynti|satış|"
        "ciro|продажи|выручка|売上|売上高|销售额|銷售額|매출|매출액|판매량"
    ),
}
# Names of stores and departments that say that their rows are sums of others.
TOTALS = one_of(
    "total|totals|grand total|subtotal|sum|sums|all|all stores|all departments|overall|gesamt|summe|gesamtsumme|"
    "insgesamt|alle|somme|totale|suma|som|totaal|합계|계"
)

SALES_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "store": pa.string(),
        "dept": pa.string(),
        "week": pa.date32(),
        "sales": pa.float64(),
        "is_holiday": pa.bool_(),
    }
)
STORES_SCHEMA = pa.schema({"line": pa.int64(), "store": pa.string(), "name": pa.string(), "value": pa.string()})
DEPARTMENTS_SCHEMA = pa.schema({"line": pa.int64(), "dept": pa.string(), "name": pa.string(), "value": pa.string()})
FEATURES_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "store": pa.string(),
        "dept": pa.string(),
        "week": pa.date32(),
        "name": pa.string(),
        "value": pa.float64(),
    }
)
CALENDAR_SCHEMA = pa.schema({"line": pa.int64(), "name": pa.string(), "date": pa.date32()})
REJECTED_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "rule": pa.string(),
        "column": pa.string(),
        "value": pa.string(),
        "message": pa.string(),
        "record": pa.string(),
    }
)


class FileRefused(Exception):
    """A landed file that can't be read at all.

    Attributes:
        rule: stable name of the reason, for example `truncated_gzip`.
        message: the file, what was expected and found, and how to mend it.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(rule, message)
        self.rule = rule
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} [{self.rule}]"


@dataclass(frozen=True)
class Parsed:
    """What became of a file's rows: `rows == accepted_rows + len(rejected)`, always.

    Attributes:
        kept: what was accepted: SALES_SCHEMA by week, or a table of STORES_SCHEMA, DEPARTMENTS_SCHEMA, FEATURES_SCHEMA
            or CALENDAR_SCHEMA in the file's order. `line` is the 1-based line the row starts on, counting the header
            and blank lines (parquet: 1-based row). Stores, departments and features are long: one row per file row and
            attribute column.
        rejected: REJECTED_SCHEMA, one row per rejected line, by line: the first rule it breaks, where,
            what to do about it, and the whole record as text so that nothing is lost.
        ignored_columns: columns of the file that nothing was read from.
        header: all columns of the file.
        notes: what a person should know of a file that was read: values that are no flags, a department made up.
        splits: of a file with several rows of one store, department and week, the other columns that tell them apart.
        rows: rows in the file.
        accepted_rows: rows of the file that were accepted.
    """

    kept: pa.Table | ByWeek
    rejected: pa.Table
    ignored_columns: tuple[str, ...]
    rows: int
    accepted_rows: int
    header: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @property
    def accepted(self) -> pa.Table:
        """What was accepted, all of it in memory."""
        return self.kept if isinstance(self.kept, pa.Table) else self.kept.table()

    @property
    def sales(self) -> ByWeek:
        """The accepted rows of a sales file."""
        assert not isinstance(self.kept, pa.Table)
        return self.kept
