"""Build the documentation site into `.site/html`, and check that no page loads anything from another host.

The site shows `docs/` and some files that live elsewhere in the repository. This script copies all of them into one
folder, adapts the links between them, and runs Zensical in strict mode, which fails on a link to a page or to a heading
that does not exist.

``--serve``: show the site on http://127.0.0.1:8080 afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
PAGES = ROOT / ".site" / "pages"
HTML = ROOT / ".site" / "html"
PORT = 8080

ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks/method.md",
    "benchmarks/RESULTS.md": "benchmarks/results.md",
    "benchmarks/results.png": "benchmarks/results.png",
    "k8s/README.md": "operate/kubernetes.md",
    "openapi/inference.proto": "reference/inference.proto",
}
"""Files outside `docs/` that the site shows, and their places in it."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_OTHER_HOST = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>")


def places() -> dict[str, str]:
    """Every file of the site: its path in the repository, and its path in the site."""
    own = (path for path in sorted((ROOT / "docs").rglob("*")) if path.is_file() and path.suffix not in {".py", ".pyc"})
    return {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in own} | ELSEWHERE


def adapt(text: str, source: str, known: dict[str, str]) -> str:
    """Make the links of one page right for the site. A link to a file that the site does not show becomes its text.

    Raises:
        FileNotFoundError: a link names a file that is not in the repository.
    """

    def replace(match: re.Match[str]) -> str:
        image, label, target, anchor = match.groups()
        path = os.path.normpath((PurePosixPath(source).parent / target).as_posix())
        if path in known:
            start = PurePosixPath(known[source]).parent.as_posix()
            return f"{image}[{label}]({os.path.relpath(known[path], start)}{anchor or ''})"
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{source}: no such file: {target}")
        return label

    parts = _CODE.split(text)
    return "".join(part if part.startswith("`") else LINK.sub(replace, part) for part in parts)


def collect() -> None:
    """Copy every file of the site into `PAGES`."""
    shutil.rmtree(PAGES, ignore_errors=True)
    known = places()
    for source, place in known.items():
        target = PAGES / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            target.write_text(adapt((ROOT / source).read_text(), source, known))
        else:
            shutil.copyfile(ROOT / source, target)


def build() -> int:
    """Build the site. Returns the exit code."""
    collect()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    if done.returncode:
        findings = _COLOR.sub("", done.stderr).partition("Traceback")[0]
        sys.stderr.write(findings or done.stderr)
        return 1
    foreign = [
        f"{page.relative_to(HTML)}: {tag}"
        for page in sorted(HTML.rglob("*.html"))
        for tag in _OTHER_HOST.findall(page.read_text())
        if "canonical" not in tag
    ]
    sys.stderr.writelines(f"loads from another host: {line}\n" for line in foreign)
    return 1 if foreign else 0


def serve() -> None:
    """Show the site until Ctrl-C."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(HTML))
    with ThreadingHTTPServer(("127.0.0.1", PORT), handler) as server:
        sys.stdout.write(f"The documentation is at http://127.0.0.1:{PORT}. Ctrl-C stops it.\n")
        server.serve_forever()


if __name__ == "__main__":
    code = build()
    if code == 0 and "--serve" in sys.argv:
        try:
            serve()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
    raise SystemExit(code)
