"""The shape of the code: imports point one way, nothing ambient, small files with telling names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "argosy"

# A module imports from its own layer's package and from lower numbers. Layers of equal number do
# not know each other. `config` names weight formats, so `model.formats` lies below it.
LAYERS = {
    "errors": 0,
    "types": 1,
    "model.formats": 2,
    "config": 3,
    "model": 4,
    "bundle": 5,
    "runtime": 6,
    "text": 6,
    "engine": 7,
    "client": 8,
    "load": 9,
    "serve": 9,
    "cli": 10,
    "__main__": 11,
}
# `argosy/__init__.py` exports names from every layer, on first use, and none may import it back.
EXPORTS = "__init__"
OPTIONAL = {"torch", "tqdm"}
"""Packages that may be absent, and so may be imported inside a function."""

EDGES = {"client.llm"}
"""Beside the cli: where a script comes in, `LLM` reads ARGOSY_CACHE."""

IMPURE = {"numpy", "time", "datetime", "os", "sys", "io", "socket", "logging", "threading"}
FILE_LINES = 600
FUNCTION_LINES = 70


def modules() -> list[Path]:
    """Every Python file of the package."""
    return sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`engine.pages` for src/argosy/engine/pages.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer(module: str) -> str:
    """The layer a module belongs to: its longest prefix in the table."""
    while module and module not in LAYERS:
        module = module.rpartition(".")[0]
    return module


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """All modules imported anywhere in a file, names of a package counted as its modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def wrong_way(module: str, tree: ast.AST) -> list[str]:
    """Imports of `module` that do not point to a lower layer."""
    here, bad = layer(module), []
    for name, _ in imports(tree):
        package, _, rest = name.partition(".")
        if package != "argosy" or rest == "__version__":
            continue
        there = layer(rest)
        if not there or (there != here and LAYERS[there] >= LAYERS[here]):
            bad.append(name)
    return bad


def local_imports(tree: ast.AST) -> set[str]:
    """Packages imported inside functions."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {name.partition(".")[0] for f in functions for name, _ in imports(f)}


def ambient(tree: ast.AST) -> list[int]:
    """Lines that read the environment or write a global."""
    lines = []
    for node in ast.walk(tree):
        reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
        if reads or isinstance(node, ast.Global):
            lines.append(node.lineno)
    return lines


def long_functions(tree: ast.AST) -> list[str]:
    """Functions above the limit."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_module_keeps_the_rules(path: Path) -> None:
    tree, module = ast.parse(path.read_text()), module_name(path)
    if module == EXPORTS:
        return
    assert layer(module), f"{path} belongs to no layer"
    assert not wrong_way(module, tree)
    assert local_imports(tree) <= OPTIONAL
    if layer(module) != "cli" and module not in EDGES:
        assert not ambient(tree), "only the edges read the environment"
    assert not long_functions(tree)


def source_files() -> list[Path]:
    """Python and C++ of the repository, tests and tools too."""
    folders = [ROOT / name for name in ("src", "native", "tests", "bench", "training", "docs")]
    return [p for f in folders for p in f.rglob("*") if p.suffix in {".py", ".cc", ".h"}]


def test_files_are_small() -> None:
    long = {p.name for p in source_files() if len(p.read_text().splitlines()) > FILE_LINES}
    assert not long


def test_no_file_is_a_drawer() -> None:
    drawers = re.compile(r"(^|_)(utils?|helpers?|misc|common)$")
    names = {name for p in source_files() for name in (p.stem, p.parent.name)}
    assert not [name for name in names if drawers.search(name)]


@pytest.mark.parametrize("module", ["scheduler", "pages", "prefix"])
def test_decisions_are_pure(module: str) -> None:
    path = SOURCE / "engine" / f"{module}.py"
    used = {name.partition(".")[0] for name, _ in imports(ast.parse(path.read_text()))}
    assert not used & IMPURE
    code = f"import sys, argosy.engine.{module}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


WRONG = [
    ("engine.pages", "from argosy.client import llm", ["argosy.client.llm"]),
    ("runtime.reference.run", "import argosy.text.stop", ["argosy.text.stop"]),
    ("model.formats", "from argosy.config import EngineConfig", ["argosy.config.EngineConfig"]),
    ("errors", "from argosy.types import Request", ["argosy.types.Request"]),
    ("cli.chat", "from argosy import LLM", ["argosy.LLM"]),
    ("engine.pages", "from argosy.engine.prefix import x\nimport argosy.bundle.open", []),
]


@pytest.mark.parametrize(("module", "code", "bad"), WRONG)
def test_the_layer_check_sees_wrong_imports(module: str, code: str, bad: list[str]) -> None:
    assert wrong_way(module, ast.parse(code)) == bad


def test_the_other_checks_see_what_they_look_for() -> None:
    tree = ast.parse("def f():\n    global x\n    import numpy\n    return os.environ['A']")
    assert local_imports(tree) == {"numpy"}
    assert ambient(tree) == [2, 4]
    assert long_functions(ast.parse("def f():\n" + "    x = 1\n" * FUNCTION_LINES)) == ["f"]
