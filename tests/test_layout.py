"""House rules that a linter does not check: short modules, short test names, one meaning for each class name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
GENERATED = "_pb2"
LINES = 300
TEST_NAME = 60


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if GENERATED not in path.name)


def test_no_class_name_stands_in_two_modules_of_the_gateway() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in modules("app"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
    assert len(homes) > 100  # the walk found the code


def test_modules_stay_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules("app", "clients")}
    assert {path: length for path, length in lengths.items() if length > LINES} == {}
    assert len(lengths) > 100


def test_names_of_tests_are_short() -> None:
    names = [
        node.name
        for path in modules("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > TEST_NAME] == []
    assert len(names) > 1000
