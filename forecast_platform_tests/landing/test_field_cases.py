"""Files as people have them: each gives its right figures, or a refusal that names what would read it."""

from __future__ import annotations

import datetime as dt

import pytest

from forecast_platform.landing.judgement import Known, judge
from forecast_platform.landing.kinds import FileRefused, Parsed
from forecast_platform.landing.rules import parse_sales
from forecast_platform.settings import Settings
from forecast_platform_tests.landing.field_cases import CASES, END, PAGE, START, Case, table

NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
UNKNOWN = Known(())


def taken(case: Case, known: Known = UNKNOWN) -> tuple[Parsed, tuple[str, ...]]:
    """The rows of a file that is taken, and the warnings. Raises FileRefused where it is not."""
    settings = Settings(**case.settings)
    newest = settings.calendar.last_started(NOW)
    parsed = parse_sales(case.bytes, case.name, settings.contract, settings.calendar, newest)
    assert parsed.rows == parsed.accepted_rows + len(parsed.rejected), "no row is lost"
    verdict = judge(parsed, known, case.name, settings.contract, settings.limits)
    if verdict.refusal:
        raise verdict.refusal
    return parsed, verdict.warnings


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.have}")
def test_a_file_as_people_have_it(case: Case) -> None:
    if case.refused:
        with pytest.raises(FileRefused) as refusal:
            taken(case)
        assert refusal.value.rule == case.refused
        assert case.name in refusal.value.message
        for word in case.says:
            assert word in refusal.value.message
        return
    parsed, warnings = taken(case)
    assert parsed.accepted["sales"].to_pylist() == pytest.approx(case.sales)
    assert parsed.rejected["value"].to_pylist() == case.rejected
    for column, expected in (("store", case.stores), ("dept", case.depts), ("week", case.weeks)):
        if expected is not None:
            assert [str(value) for value in parsed.accepted[column].to_pylist()] == expected
    for words in case.notes:
        assert words in "; ".join(warnings)


def test_every_case_is_in_the_docs() -> None:
    written = PAGE.read_text().partition(START)[2].partition(END)[0].strip()
    assert written == table(), "python -m forecast_platform_tests.landing.field_cases writes it"
