"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import importlib.util
import re
import tomllib
import unicodedata
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from app.adapters.traces.export import dropped_spans
from app.api.app import create_app
from app.api.oip.grpc import CODES, InferenceServicer
from app.cli import cli
from app.errors import ServingError, StartupError
from app.metrics.fleet import FleetMetrics
from app.metrics.lanes import LaneMetrics
from app.metrics.predictions import PredictionMetrics
from app.metrics.releases import ReleaseMetrics
from app.oip import inference_pb2 as pb
from app.serving.comparison.ledger import Ledger
from tests.fakes import HTTP_LIMITS, make_fakes
from tests.platform import ROOT
from tests.test_errors import TREE

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
HTTP = (REFERENCE / "http.md").read_text() + (REFERENCE / "oip.md").read_text()
METRICS = (REFERENCE / "metrics.md").read_text()
CLI = (REFERENCE / "cli.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

FOLDERS = ("docs", "k8s", "benchmarks", "examples", "clients", ".github")
MARKDOWN = sorted({*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))})
PAGES = [path for path in MARKDOWN if path.is_relative_to(DOCS)]
RECORDS = [path for path in PAGES if re.match(r"\d{4}-", path.name)]
GENERATED = DOCS / "settings.md"
LONG_CELLS = {GENERATED, *RECORDS}
_CELL = 200
"""Characters of two lines in the site's tables."""

_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return _FENCED.sub("", path.read_text())


def test_every_endpoint_is_documented() -> None:
    fakes = make_fakes({})
    paths = create_app(fakes.service, fakes.manager, HTTP_LIMITS).openapi()["paths"]
    shown = {path.replace("{ref:path}", "{ref}") for path in paths}
    assert [path for path in sorted(shown - {"/v1/models/{ref}"}) if path not in HTTP] == []


def test_every_metric_is_documented_with_its_type_and_exists() -> None:
    registry = CollectorRegistry()
    PredictionMetrics(Ledger(), registry)
    ReleaseMetrics(registry)
    LaneMetrics(registry)
    InferenceServicer(cast(Any, None), 1.0, registry)
    dropped_spans(registry)
    families = [*registry.collect(), *FleetMetrics([], []).collect()]
    kinds = {f"{family.name}_total" if family.type == "counter" else family.name: family.type for family in families}
    documented = set(re.findall(r"`((?:ml_serve|grpc)_\w+)`", METRICS))
    assert kinds.keys() == documented
    rows = dict(re.findall(r"^\| `(ml_serve_\w+)` \| (\w+) \|", METRICS, re.MULTILINE))
    assert rows == {metric: kind for metric, kind in kinds.items() if metric.startswith("ml_serve_")}


def test_metrics_in_other_pages_exist() -> None:
    known = set(re.findall(r"`(ml_serve_\w+)`", METRICS))
    for page in set(PAGES) - set(RECORDS):
        for metric in re.findall(r"\b(ml_serve_(?!client\b)\w*\w)\b(?!\*)", page.read_text()):
            base = re.sub(r"_(bucket|count|sum)$", "", metric)
            assert base in known or f"{base}_total" in known or metric == "ml_serve_variant_", f"{name(page)}: {metric}"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_code_is_documented(kind: type[ServingError]) -> None:
    assert kind is StartupError or f"`{kind.code}`" in HTTP


def test_every_grpc_call_and_code_is_documented() -> None:
    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert [name for name in [*methods, *(code.name for code in CODES.values())] if f"`{name}`" not in HTTP] == []


def test_every_command_is_documented_with_its_options() -> None:
    group = cast(TyperGroup, get_command(cli))
    documented: dict[str, set[str]] = {}
    for command, options in re.findall(r"^\| `ml-serve (\w+)[^`]*` \|.*\| ([^|]*) \|$", CLI, re.MULTILINE):
        documented.setdefault(command, set()).update(re.findall(r"`(--[\w-]+)`", options))
    actual = {name: set().union(*map(_options, _with_children(command))) for name, command in group.commands.items()}
    assert documented == actual
    (shown,) = re.findall(r"## Global options\n\n(.*)\n", CLI)
    assert set(re.findall(r"`(--[\w-]+)`", shown)) == {*_options(group), "--help"}


def _with_children(command: Any) -> list[Any]:
    return [command, *getattr(command, "commands", {}).values()]


def _options(command: Any) -> set[str]:
    options = [parameter for parameter in command.params if isinstance(parameter, TyperOption)]
    return {opt for option in options for opt in (*option.opts, *option.secondary_opts)} - {"--help"}


@pytest.mark.parametrize("page", MARKDOWN, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in _LINK.findall(prose(page)):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"no such file: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
            assert anchor in {_site_anchor(heading) for heading in headings}, f"no such heading: {target}#{anchor}"
            assert anchor in {_repository_anchor(heading) for heading in headings}, f"{target}#{anchor} on GitHub"


def _site_anchor(heading: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def _repository_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


READERS = [*(set(PAGES) - set(RECORDS) - {GENERATED}), ROOT / "CONTRIBUTING.md", ROOT / "k8s" / "README.md"]


@pytest.mark.parametrize("page", sorted(READERS), ids=name)
def test_a_page_says_first_who_it_is_for(page: Path) -> None:
    title, _, first, *_ = page.read_text().splitlines()
    assert title.startswith("# ")
    assert first.startswith("For ")


@pytest.mark.parametrize("page", sorted(set(PAGES) - LONG_CELLS), ids=name)
def test_no_cell_is_longer_than_two_lines(page: Path) -> None:
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    texts = [re.sub(r"\]\([^)]*\)", "]", cell.strip()) for row in rows for cell in row.split(" | ")]
    assert [text for text in texts if len(text) > _CELL] == []


def test_every_page_is_in_the_navigation() -> None:
    pages = set(_pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    records = {path.relative_to(DOCS).as_posix() for path in RECORDS}  # they are in the index of decisions
    assert pages == {place for place in build_site.places().values() if place.endswith(".md")} - records


def _pages(items: Any) -> list[str]:
    if isinstance(items, str):
        return [items]
    if isinstance(items, dict):
        return [page for value in items.values() for page in _pages(value)]
    return [page for item in items for page in _pages(item)]


def test_every_decision_is_in_the_index() -> None:
    index = (DOCS / "adr" / "index.md").read_text()
    assert sorted(re.findall(r"\]\((\d{4}-[^)]+)\)", index)) == sorted(path.name for path in RECORDS)


def test_the_modules_that_contributing_names_exist() -> None:
    rows = re.findall(r"^\| (?:Where|What|Who) .*\? \| `([^`]+)` \|$", CONTRIBUTING, re.MULTILINE)
    assert len(rows) >= 10
    assert [row for row in rows if not (ROOT / row).is_file()] == []


def test_benchmark_figures_are_those_of_the_results() -> None:
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    figures = re.findall(r"(?<![\w.-])\d[\d,.]*\d(?![\w-])", prose(DOCS / "benchmarks" / "index.md"))
    assert len(figures) > 10
    rounded = {f"{float(value):.1f}" for value in re.findall(r"\b\d+\.\d{2}\b", results)}
    assert [
        value for value in figures if not re.search(rf"\b{re.escape(value)}\b", results) and value not in rounded
    ] == []


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_site = _load(DOCS / "build_site.py")


def test_the_site_adapts_links_to_files_that_it_shows_elsewhere() -> None:
    known = {"CHANGELOG.md": "changelog.md", "docs/a/b.md": "a/b.md", "docs/c.md": "c.md"}
    text = "[log](../../CHANGELOG.md#x) [c](../c.md) [code](../../Makefile) [web](https://a.b) `[c](../c.md)`"
    adapted = build_site.adapt(text, "docs/a/b.md", known)
    assert adapted == "[log](../changelog.md#x) [c](../c.md) code [web](https://a.b) `[c](../c.md)`"


def test_the_site_refuses_a_link_to_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"docs/a\.md: no such file: nowhere\.md"):
        build_site.adapt("[x](nowhere.md)", "docs/a.md", {"docs/a.md": "a.md"})
