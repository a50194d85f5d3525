"""Who may import whom: each room of the house knows only those below it, so that a change touches one room."""

from __future__ import annotations

import ast
import collections
import functools
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import forecast_platform

ROOT = Path(forecast_platform.__file__).parent
# Room -> what it may know. A module at the top is a room of its own. docs/architecture.md draws it.
ALLOWED: dict[str, set[str]] = {
    "weeks": set(),
    "levels": set(),
    "figures": set(),
    "words": {"figures", "weeks"},
    "scores": set(),
    "kernels": set(),
    "databases": set(),
    "deepar": {"kernels"},
    "history": {"levels", "weeks"},
    "models": {"deepar", "history", "kernels", "levels", "settings", "weeks"},
    "lake": {"levels", "scores", "weeks"},
    "landing": {"databases", "history", "lake", "weeks"},
    "settings": {"databases", "history", "landing", "levels", "weeks", "words"},
    "streaming": {"lake", "landing", "weeks"},
    "publishing": {"databases", "history", "lake", "levels", "models", "weeks"},
    "clouds": {"lake", "landing", "settings"},
    "engines": {"clouds", "deepar", "history", "levels", "models", "settings"},
    "panels": {"engines", "history", "lake", "levels", "publishing", "settings"},
    "serverless": {"clouds", "engines", "history", "lake", "landing", "levels", "models"}
    | {"panels", "publishing", "settings", "weeks"},
    "homes": {"lake"},
    "failures": {"lake"},
    "monitoring": {"lake"},
    "demo": {"history", "weeks"},
    "notify": {"clouds", "failures", "history", "lake", "settings", "weeks", "words"},
    "dashboard": {"history", "lake", "levels", "models", "publishing", "scores", "settings", "weeks", "words"},
    "surface": {"clouds", "history", "lake", "levels", "models", "publishing", "scores", "settings"},
}
PEOPLES = {
    "__init__",
    "cli",
    "defs",
    "runner",
    "definitions",
    "spark_job",
    "draining",
}  # where it all meets: they may know everything
NO_DAGSTER = ALLOWED.keys() - {"dashboard"}  # which shows what its runs are doing
NO_CLOUD = {"kernels", "weeks", "levels", "scores", "deepar", "history", "models", "landing", "publishing"}
NO_CLOUD |= {"streaming"}


@functools.cache
def imports() -> list[tuple[str, str, str]]:
    """(room, file, module or what of it is imported), without what only type checkers read."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{each.name}" for each in node.names]
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            found += [(name.parts[0].removesuffix(".py"), str(name), each) for each in names]
    return found


def test_a_name_is_one_class() -> None:
    """Private classes aside; and a catalog is one thing in two clouds."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    assert len(found) > 200
    assert {name: paths for name, paths in found.items() if len(paths) > 1}.keys() == {"Catalog"}


def test_each_room_knows_only_those_below_it() -> None:
    wrong, rooms = collections.defaultdict(set), set()
    for room, file, module in imports():
        rooms.add(room)
        top, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if top != "forecast_platform" or not rest or other == room or room in PEOPLES:
            continue
        if other not in ALLOWED.get(room, set()):
            wrong[room].add(f"{file} imports {module}")
    assert not wrong, dict(wrong)
    assert rooms == ALLOWED.keys() | PEOPLES, "a new room is to be given its place here"


def test_what_is_allowed_has_no_circle() -> None:
    left = {room: set(known) for room, known in ALLOWED.items()}
    while left:
        done = {room for room, known in left.items() if not known & left.keys()}
        assert done, f"a circle among {sorted(left)}"
        left = {room: known for room, known in left.items() if room not in done}


def test_no_other_modules_import_each_other_not_even_within_a_room() -> None:
    known: dict[str, set[str]] = {_name(path.relative_to(ROOT)): set() for path in _sources()}
    for _, file, imported in imports():
        name = imported.removeprefix("forecast_platform.")
        known[_name(Path(file))] |= {name if name in known else name.rpartition(".")[0]} & known.keys()
    assert "engines.sagemaker.jobs" in known["engines.sagemaker.engine"]

    def reached(name: str) -> set[str]:
        found, waiting = set[str](), [name]
        while waiting:
            new = known[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {name: reached(name) for name in known}
    circles = [{b for b in reach[a] if a in reach[b]} for a in sorted(known) if a in reach[a]]
    assert circles == []


def test_only_the_asset_layer_knows_dagster_and_only_the_twins_a_cloud() -> None:
    found = list(imports())
    assert {"dagster", "boto3", "duckdb"} <= {module.partition(".")[0] for _, _, module in found}
    for room, file, module in found:
        top = module.partition(".")[0]
        assert not (room in NO_DAGSTER and top.startswith("dagster")), f"{file} imports {module}"
        assert not (room in NO_CLOUD and top in ("boto3", "botocore", "sagemaker")), f"{file} imports {module}"


def test_what_benchmarks_import_is_there() -> None:
    """They run in processes of their own, and only where there is data: a moved name would not be missed elsewhere."""
    files = sorted((ROOT.parent / "benchmarks").rglob("*.py"))
    asked = [
        (path.name, node.module, each.name)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("forecast_platform")
        for each in node.names
    ]
    assert len(asked) > 20
    for file, module, name in asked:
        there = hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}")
        assert there, f"benchmarks/{file} imports {name} from {module}"


@pytest.mark.parametrize("folder", [ROOT, Path(__file__).parent], ids=["modules", "tests"])
def test_nobody_names_a_private_part_of_another_module(folder: Path) -> None:
    """What others need, or is worth a test of its own, has a name for them. Attributes of objects are not looked at."""
    named, read = [], 0
    for path in sorted(folder.rglob("*.py")):
        tree, modules = ast.parse(path.read_text()), set[str]()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and re.match("forecast_platform|benchmarks", node.module or ""):
                modules |= {each.asname or each.name for each in node.names}
                named += [f"{path.name}: {each.name}" for each in node.names if re.match("_(?!_)", each.name)]
        read += len(modules)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                private = re.match("_(?!_)", node.attr)
                named += [f"{path.name}: {node.value.id}.{node.attr}"] if private else []
    assert read > 500
    assert named == []


def test_addresses_in_s3_are_taken_apart_and_errors_of_aws_put_into_words_in_one_place() -> None:
    split = {file for file in _sources() if re.search(r'removeprefix\("s3://"\)', file.read_text())}
    assert split == {ROOT / "clouds" / "aws" / "clients.py"}
    unreached = {file for file in _sources() if re.search(r"except.*Boto(Core|3)Error", file.read_text())}
    allowed = {"clients.py", "jobs.py", "job_logs.py"}  # jobs go on when an answer is lost
    assert {file.name for file in unreached} == allowed


def test_accuracy_is_added_up_in_sql_in_one_place() -> None:
    of_sums = r"nullif\(sum\([^)]*abs\(actual|avg\([^)]*in_interval|sum\(quantile_loss\)"
    assert {file.name for file in _sources() if re.search(of_sums, _without_docstrings(file))} == {"scores.py"}


def test_numba_is_known_to_one_file() -> None:
    assert {file for _, file, module in imports() if module.partition(".")[0] in ("numba", "llvmlite")} == {
        "kernels.py"
    }


def test_whoever_needs_a_twin_is_given_it() -> None:
    reading = {str(f.relative_to(ROOT)) for f in _sources() if re.search(r"(settings|self)\.profile\b", f.read_text())}
    assert reading == {"settings.py", "clouds/base.py"}


def _sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def _without_docstrings(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def _name(path: Path) -> str:
    """Of a module, from its place in the package."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")
