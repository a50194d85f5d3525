"""What stores and departments are called: their keys, and beside them the names that landed.

A key is what addresses and files carry, and tells two stores of one name apart. Names are data: they are escaped where
they are shown, and the style sheet cuts long ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecast_platform.dashboard.questions import Scope, State
from forecast_platform.words import Words

_TABLES = {"store": "stores", "dept": "departments"}
MOST = 8  # attributes in a heading


@dataclass(frozen=True)
class Names:
    """How to call what is shown, in one locale.

    Attributes:
        given: of store and dept each: key -> name.
    """

    words: Words
    given: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, state: State, words: Words) -> Names:
        return cls(words, {column: state.apply(_given, column) for column in _TABLES})

    def key(self, column: str, key: str) -> str:
        """12 · Gangnam; the key alone where it has no other name."""
        name = self.given[column].get(key, "")
        return f"{key} · {name}" if name and name != key else key

    def store(self, key: str) -> str:
        return self.words.gettext("store %(store)s", store=self.key("store", key))

    def dept(self, key: str) -> str:
        return self.words.gettext("department %(dept)s", dept=self.key("dept", key))

    def series(self, store: str, dept: str) -> str:
        """As lists have it, with the short word for a department."""
        store, dept = self.key("store", store), self.key("dept", dept)
        return self.words.gettext("store %(store)s, dept %(dept)s", store=store, dept=dept)

    def scope(self, scope: Scope) -> str:
        """As a heading or a sentence has it."""
        if scope.attribute:
            return self.member(scope.attribute, scope.member)
        parts = [self.store(scope.store)] if scope.store else []
        parts += [self.dept(scope.dept)] if scope.dept else []
        return ", ".join(parts) or self.words.gettext("all stores")

    def member(self, attribute: str, member: str) -> str:
        """A group of a level by an attribute: region North."""
        return f"{self.words.term(attribute)} {member}"

    def attributes(self, state: State, scope: Scope) -> str:
        """What is known of the scope's store and department beside their names, in a line: region: North · type: A."""
        known: dict[str, str] = {}
        for column, key in (("store", scope.store), ("dept", scope.dept)):
            for name, value in state.apply(_attributes, column, key) if key else ():
                known[name] = f"{known[name]}, {value}" if name in known else value
        return " · ".join(f"{self.words.term(name)}: {value}" for name, value in list(known.items())[:MOST])


def _given(con: Any, column: str) -> dict[str, str]:
    asked = f"SELECT {column}, max(value) FROM {_TABLES[column]} WHERE name = 'name' GROUP BY 1"  # noqa: S608 (ours)
    return dict(con.execute(asked).fetchall())


def _attributes(con: Any, column: str, key: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = con.execute(
        f"""SELECT name, max(value) FROM {_TABLES[column]} WHERE {column} = ? AND name <> 'name' AND value <> ''
            GROUP BY name ORDER BY name""",  # noqa: S608 (a name of ours)
        [key],
    ).fetchall()
    return found
