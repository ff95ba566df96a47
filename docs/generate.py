"""Writes docs/reference/{cli,config,sampling-params}.md from the code; --check only compares."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from argosy.cli.main import VERBS, load_verb
from argosy.config import NO_EFFECT_ON_CPU, ONLY_VALUES, EngineConfig
from argosy.model.formats import AUTO_DTYPE
from argosy.types import _NEUTRAL, SamplingParams

REFERENCE = Path(__file__).parent / "reference"
NOTICE = "<!-- Written by docs/generate.py; `make docs` checks it. -->\n\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), *[list(row) for row in rows]]
    lines.insert(1, ["---"] * len(lines[0]))
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in cells)


def flag_row(option: Any) -> list[str]:
    """Names, value and meaning of one option or argument."""
    if option.param_type_name == "argument":
        return [f"`{option.name.upper()}`", "", option.help or ""]
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    shown = option.default is not None and not option.is_flag and not option.multiple
    default = f" Default: {option.default}." if shown else ""
    value = "" if option.is_flag else option.metavar or ""
    return [
        names,
        f"{value} ...".strip() if option.multiple else value,
        (option.help or "") + default,
    ]


def verb_section(name: str) -> str:
    """One verb: what it does, examples, flags."""
    command = load_verb(name)
    rows = [flag_row(p) for p in command.params if p.name != "help"]
    text = inspect.cleandoc(command.help or "")
    examples = inspect.cleandoc((command.epilog or "").replace("\b", ""))
    flags = table(["flag", "value", "meaning"], rows)
    return f"## argosy {name}\n\n{text}\n\n```\n{examples}\n```\n\n{flags}"


def cli_page() -> str:
    """Every verb with its flags."""
    head = (
        "# Command line\n\n"
        "Exit codes: 0 done; 1 an error, told in one line on stderr; 2 wrong usage; 130 Ctrl-C.\n\n"
        "Read from the environment: `ARGOSY_CACHE` (folder of built bundles; default "
        "`~/.cache/argosy`), `ARGOSY_LOG` (debug, info, warning, error), `NO_COLOR`, and what "
        "huggingface_hub reads (`HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`).\n\n"
    )
    return head + "\n".join(verb_section(name) for name in VERBS)


def field_rows(cls: type[Any]) -> list[list[str]]:
    """Name, type and default of each field of a dataclass."""
    return [
        [f"`{f.name}`", f"`{f.type}`", "" if f.default is MISSING else f"`{f.default!r}`"]
        for f in fields(cls)
    ]


def doc_block(cls: type[Any]) -> str:
    """The docstring, as it stands."""
    return f"```text\n{inspect.cleandoc(cls.__doc__ or '')}\n```\n"


def config_page() -> str:
    """EngineConfig, what has no effect on a CPU, and what "auto" picks."""
    auto = [
        [device, stored, *picked]
        for device, picks in AUTO_DTYPE.items()
        for stored, picked in picks.items()
    ]
    return (
        f"# EngineConfig\n\n{doc_block(EngineConfig)}\n"
        + table(["field", "type", "default"], field_rows(EngineConfig))
        + '\n## What dtype "auto" picks\n\n'
        + table(["device", "checkpoint", "weights and activations", "cache"], auto)
        + "\n## Accepted by LLM without effect on a CPU\n\n"
        + table(["argument", "why", "only with"], accepted_rows())
    )


def accepted_rows() -> list[list[str]]:
    """Arguments without effect: why, and the values that are true here where not all are."""
    return [
        [f"`{name}`", why, ", ".join(f"`{value!r}`" for value in ONLY_VALUES.get(name, ()))]
        for name, why in NO_EFFECT_ON_CPU.items()
    ]


def sampling_page() -> str:
    """SamplingParams: honoured fields, then those with one accepted value."""
    rows = field_rows(SamplingParams)
    neutral = {f"`{name}`" for name in _NEUTRAL}
    return (
        f"# SamplingParams\n\n{doc_block(SamplingParams)}\n"
        + table(["field", "type", "default"], [r for r in rows if r[0] not in neutral])
        + "\n## Known, not supported yet: any other value is refused by name\n\n"
        + table(["field", "only value"], [[r[0], r[2]] for r in rows if r[0] in neutral])
    )


PAGES = {"cli.md": cli_page, "config.md": config_page, "sampling-params.md": sampling_page}


def stale_pages() -> dict[Path, str]:
    """Pages whose file is missing or differs, with what they should hold."""
    pages = {REFERENCE / name: NOTICE + page() for name, page in PAGES.items()}
    return {
        path: text
        for path, text in pages.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }


def main() -> None:
    """Write the stale pages, or name them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    for path, text in stale_pages().items():
        if check:
            sys.exit(f"{path} is stale; run `python docs/generate.py`")
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
