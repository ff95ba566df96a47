"""The documentation tells the truth where a machine can see it."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from argosy.cli.main import VERBS, load_verb

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:src|native|tests|docs|bench|training|tools)/[\w./-]*\w/?)`")
NAMED = re.compile(r"`((?:src|native|tests)/[\w./-]+)::(\w+(?:\.\w+)*)`")
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    targets = [t for t in LINK.findall(text) if "://" not in t and not t.startswith("mailto:")]
    return [t for t in targets if not (folder / t).exists()]


def missing_paths(text: str) -> list[str]:
    """Files and folders of the repository that a page names and that do not exist."""
    return [p for p in PATH.findall(text) if not (ROOT / p).exists()]


def missing_names(text: str) -> list[str]:
    """`file::name` pairs whose file does not define the name."""
    bad = []
    for file, name in NAMED.findall(text):
        path, last = ROOT / file, name.rpartition(".")[2]
        if not path.is_file() or not re.search(rf"\b{last}\b\s*[(:={{]", path.read_text()):
            bad.append(f"{file}::{name}")
    return bad


def commands(text: str) -> list[list[str]]:
    """The `make` and `argosy` command lines of a page's shell blocks.

    In a console block only lines after a prompt are commands, the others are what came back.
    """
    lines: list[str] = []
    for kind, block in BLOCK.findall(text):
        whole = block.replace("\\\n", " ").splitlines()
        lines += whole if kind == "sh" else [x[2:] for x in whole if x.startswith("$ ")]
    found = []
    for line in lines:
        for part in re.split(r"\||&&|;", line):
            words = shlex.split(part, comments=True)
            if words and words[0] in ("make", "argosy"):
                found.append(words)
    return found


def unknown_command(words: list[str]) -> str | None:
    """What of a command line does not exist: a make target, a verb, a flag."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((w for w in words[1:] if "=" not in w and w not in targets), None)
    if len(words) == 1 or words[1] in ("--version", "--help"):
        return None
    if words[1] not in VERBS:
        return words[1]
    known = {o for p in load_verb(words[1]).params for o in [*p.opts, *p.secondary_opts]}
    known |= {"--help"}
    flags = [w.partition("=")[0] for w in words[2:] if w.startswith("-") and w != "-"]
    return next((flag for flag in flags if flag not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_page(page: Path) -> None:
    text = page.read_text()
    assert not broken_links(text, page.parent)
    assert not missing_paths(text)
    assert not missing_names(text)
    for words in commands(text):
        assert unknown_command(words) is None, f"{' '.join(words)}: no such thing"


def test_the_generated_reference_is_fresh() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert not generator["stale_pages"]()


def test_the_readme_says_how_to_run_and_test() -> None:
    words = commands((ROOT / "README.md").read_text())
    assert ["make", "run"] in words and ["make", "test"] in words


def test_the_architecture_page_is_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 150


def test_the_life_of_a_request_names_a_file_at_every_step() -> None:
    text = (ROOT / "docs/explanation/life-of-a-request.md").read_text()
    steps = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(steps) >= 10
    assert all(NAMED.search(step) for step in steps)


def test_the_checks_see_what_they_look_for() -> None:
    assert broken_links("[a](nowhere.md) [b](README.md#x) [c](https://example.org)", ROOT) == [
        "nowhere.md"
    ]
    assert missing_paths("`src/argosy/errors.py` `src/argosy/none.py`") == ["src/argosy/none.py"]
    assert missing_names("`src/argosy/types.py::Batch` `src/argosy/types.py::Batches`") == [
        "src/argosy/types.py::Batches"
    ]
    assert unknown_command(["make", "lunch"]) == "lunch"
    assert unknown_command(["argosy", "chat", "--no-such-flag"]) == "--no-such-flag"
    assert unknown_command(["argosy", "fly"]) == "fly"
