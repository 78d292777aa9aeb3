"""Plain English: words and phrases that a non-native reader stumbles over stay out of the project's text.

Each has a plain replacement: see *Rules* in `CONTRIBUTING.md`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.platform import ROOT

AVOIDED = {
    "anew": "again",
    "at the cost of": "name the cost in a sentence of its own",
    "be had": "be downloaded, be read, be reached",
    "for want of": "because there is no",
    "hereby": "leave it out",
    "it is so": "say what is true",
    "lest": "so that … not",
    "nobody … may": "name the actor: the gateway does not",
    "of late": "recently",
    "shall": "must, should, or the present tense",
    "so as it is": "unchanged",
    "speaks against": "blocks, prevents",
    "speaks for": "is a reason for",
    "that which": "the noun",
    "there is nothing at": "no such endpoint",
    "what has come to": "the noun",
    "what is known stays in force": "the last known state is kept",
    "who asks": "the caller",
    "whoever": "the actor: a caller, an operator",
    "holds up": "blocks, delays",
    "held up": "blocked, delayed",
}
"""Word or phrase, and what to write in its place. ``…`` stands for up to five words."""

_GAP = r"(?:\s+(?:[#*/]+\s*)?)"  # between two words, also over the end of a line and the sign of a comment


def _pattern(phrase: str) -> re.Pattern[str]:
    words = _GAP.join(re.escape(word) for word in phrase.split())
    words = words.replace(f"{_GAP}…{_GAP}", rf"(?:{_GAP}[\w'-]+){{0,5}}?{_GAP}")
    return re.compile(rf"\b{words}\b", re.IGNORECASE)


_PATTERNS = {phrase: _pattern(phrase) for phrase in AVOIDED}
_FOLDERS = ("app", "clients", "docs", "benchmarks", "k8s", "examples")
_FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "Dockerfile", "pyproject.toml")
_KINDS = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".lua", ".css", ".svg", ""}


def _texts() -> list[Path]:
    files = [*(ROOT / name for name in _FILES), *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*"))]
    return sorted(path for path in files if path.is_file() and path.suffix in _KINDS and not _is_generated(path))


def _is_generated(path: Path) -> bool:
    return "_pb2" in path.name or "__pycache__" in path.parts or any(part.endswith(".egg-info") for part in path.parts)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def findings(text: str) -> list[str]:
    """Each avoided phrase of a text, with its line and a replacement."""
    found = [(match.start(), phrase) for phrase, pattern in _PATTERNS.items() for match in pattern.finditer(text)]
    return [
        f"line {text.count(chr(10), 0, at) + 1}: {phrase!r}; write: {AVOIDED[phrase]}" for at, phrase in sorted(found)
    ]


def test_phrases_are_found_across_lines_and_in_comments() -> None:
    assert findings("nothing to see\n# so that nobody else but one\n# may do this") == [
        "line 2: 'nobody … may'; write: name the actor: the gateway does not"
    ]
    assert findings("nobody may") == ["line 1: 'nobody … may'; write: name the actor: the gateway does not"]
    assert findings("Marshall, lesson, shallow, whatever") == []


@pytest.mark.parametrize("path", _texts(), ids=_name)
def test_the_text_is_in_plain_english(path: Path) -> None:
    assert findings(path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=_name)
def test_the_names_of_tests_are_in_plain_english(path: Path) -> None:
    names = re.findall(r"\bdef (test_\w+)", path.read_text())
    assert [name for name in names if findings(name.replace("_", " "))] == []
