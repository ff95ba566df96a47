"""Writes from the code what docs/reference has in tables; --check only compares."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from argosy.cli import accepted, serve
from argosy.cli.main import VERBS, load_verb
from argosy.config import NO_EFFECT_ON_CPU, ONLY_VALUES, EngineConfig, ServerConfig
from argosy.model.formats import AUTO_DTYPE
from argosy.serve import series
from argosy.serve.dialects import openai_types as openai
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
    if isinstance(getattr(option, "show_default", None), str):
        default = f" Default: {option.show_default}."
    value = "" if option.is_flag else option.metavar or ""
    return [
        names,
        f"{value} ...".strip() if option.multiple else value,
        (option.help or "") + default,
    ]


def verb_section(name: str) -> str:
    """One verb: what it does, examples, flags, under headings where it has some."""
    command = load_verb(name)
    left = {p.name: p for p in command.params if p.name != "help" and not hidden(p)}
    headings = serve.GROUPS if name == "serve" else {}
    parts = [
        (title, [left.pop(f.name) for group in groups for f in fields(group)])
        for title, groups in headings.items()
    ]
    text = inspect.cleandoc(command.help or "")
    examples = inspect.cleandoc((command.epilog or "").replace("\b", ""))
    page = f"## argosy {name}\n\n{text}\n\n```\n{examples}\n```\n\n{flags_table(left.values())}"
    page += "".join(f"\n### {title}\n\n{flags_table(options)}" for title, options in parts)
    return page + (accepted_section() if name == "serve" else "")


def hidden(option: Any) -> bool:
    """Whether help leaves it out."""
    return bool(getattr(option, "hidden", False))


def flags_table(options: Iterable[Any]) -> str:
    """Flags with their values and meanings."""
    return table(["flag", "value", "meaning"], map(flag_row, options))


def accepted_section() -> str:
    """vLLM's flags that `argosy serve` takes and that change nothing."""
    rows = accepted_rows(accepted.WHY, accepted.ONLY, lambda name: f"--{name.replace('_', '-')}")
    return (
        "\n### Accepted as in vLLM, and without effect\n\n"
        "A line of the log says so. Where only some values are true here, others are refused.\n\n"
        + table(["flag", "why", "only with"], rows)
    )


def cli_page() -> str:
    """Every verb with its flags."""
    head = (
        "# Command line\n\n"
        "Exit codes: 0 done; 1 an error, told in one line on stderr; 2 wrong usage; 130 Ctrl-C.\n\n"
        "Read from the environment: `ARGOSY_CACHE` (folder of built bundles; default "
        "`~/.cache/argosy`), `ARGOSY_LOG` (debug, info, warning, error), `ARGOSY_API_KEY` or "
        "`VLLM_API_KEY` (one key of a server, where no flag gives any), `NO_COLOR`, and what "
        "huggingface_hub reads (`HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`).\n\n"
        "A flag's underscores and hyphens are the same: `--max_num_seqs`. Counts may end in `k` or "
        "`m` (1024, 1024²).\n\n"
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
    """EngineConfig and ServerConfig, what has no effect on a CPU, and what "auto" picks."""
    auto = [
        [device, stored, *picked]
        for device, picks in AUTO_DTYPE.items()
        for stored, picked in picks.items()
    ]
    return (
        f"# Configuration\n\n## EngineConfig\n\n{doc_block(EngineConfig)}\n"
        + table(["field", "type", "default"], field_rows(EngineConfig))
        + f"\n## ServerConfig\n\n{doc_block(ServerConfig)}\n"
        + table(["field", "type", "default"], field_rows(ServerConfig))
        + '\n## What dtype "auto" picks\n\n'
        + table(["device", "checkpoint", "weights and activations", "cache"], auto)
        + "\n## Accepted by LLM without effect on a CPU\n\n"
        + table(["argument", "why", "only with"], accepted_rows(NO_EFFECT_ON_CPU, ONLY_VALUES))
    )


def accepted_rows(
    reasons: Mapping[str, str],
    only: Mapping[str, tuple[Any, ...]],
    written: Callable[[str], str] = str,
) -> list[list[str]]:
    """Arguments without effect: why, and the values that are true here where not all are."""
    return [
        [f"`{written(name)}`", why, values(only.get(name, ()))] for name, why in reasons.items()
    ]


def values(allowed: Iterable[Any]) -> str:
    """Values as code."""
    return ", ".join(f"`{value!r}`" for value in allowed)


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


def metrics_page() -> str:
    """Every series of /metrics."""
    counted = [
        *series.SERIES,
        series.CACHE_CONFIG,
        series.HTTP_REQUESTS,
    ]
    merged: dict[str, list[str]] = {}
    for one in counted:
        name = one.name + ("_total" if one.kind == "counter" else "")
        row = merged.setdefault(name, [f"`{name}`", one.kind, "", one.help])
        row[2] = ", ".join(filter(None, [row[2], *(f"`{k}={v}`" for k, v in one.labels)]))
    bounds = [
        [f"`{h.name}`", h.help, ", ".join(f"{bound:g}" for bound in h.bounds)]
        for h in series.HISTOGRAMS
    ]
    return (
        "# Metrics\n\n"
        "What `GET /metrics` tells, in Prometheus' text format or OpenMetrics as `Accept` says. "
        "Names, labels and buckets are vLLM's; what it has no name for begins with `argosy_`. Each "
        "series carries `model_name` and `engine` and is there from the start; counters go on "
        "while the engine is restarted. `process_*` are of the front that answered. "
        "[How to read them](../howto/read-the-metrics.md).\n\n"
        "## Gauges and counters\n\n"
        + table(["name", "kind", "labels", "meaning"], merged.values())
        + "\n## Histograms\n\nOn the wire with `_bucket`, `_sum` and `_count`; seconds, tokens "
        "or times.\n\n" + table(["name", "of", "buckets"], bounds)
    )


ENDPOINTS: dict[str, tuple[type[Any], Mapping[str, tuple[Any, ...]], Mapping[str, str]]] = {
    "/v1/chat/completions": (
        openai.ChatRequest,
        openai.CHAT_ONLY,
        openai.CHAT_WITHOUT_EFFECT,
    ),
    "/v1/completions": (
        openai.CompletionRequest,
        openai.COMPLETION_ONLY,
        openai.COMPLETION_WITHOUT_EFFECT,
    ),
    "/tokenize": (openai.TokenizeRequest, openai.TOKENIZE_ONLY, {}),
    "/detokenize": (openai.DetokenizeRequest, {}, {}),
}


def openai_page() -> str:
    """What of each request is honoured, taken with one value, or without effect."""
    head = (
        "# OpenAI's API\n\n"
        "`/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/tokenize`, `/detokenize`, and "
        "all of it as a schema at `/openapi.json`. Fields are OpenAI's and vLLM's; any may be "
        "null. A field that no reference knows is accepted, and named in the answer's header "
        "`x-argosy-ignored`; with `--strict-fields` it is a 400. Errors, headers and the other "
        "paths: [HTTP](http.md).\n\n"
        f"## Of chats and completions\n\n{doc_block(openai.Sampling)}"
    )
    return head + "".join(map(endpoint_section, ENDPOINTS))


def endpoint_section(path: str) -> str:
    """The fields of one endpoint."""
    body, only, without = ENDPOINTS[path]
    names = ", ".join(f"`{name}`" for name in body.__struct_fields__)
    page = f"\n## {path}\n\n{doc_block(body)}\nHonoured: {names}.\n"
    if only:
        rows = [
            [f"`{name}`", ", ".join(f"`{json.dumps(value)}`" for value in allowed)]
            for name, allowed in only.items()
        ]
        page += f"\nRefused by name (400), but for\n\n{table(['field', 'value'], rows)}"
    if without:
        rows = [[f"`{name}`", why] for name, why in without.items()]
        page += f"\nAccepted with any value, and without effect\n\n{table(['field', 'why'], rows)}"
    return page


PAGES = {
    "cli.md": cli_page,
    "config.md": config_page,
    "metrics.md": metrics_page,
    "openai.md": openai_page,
    "sampling-params.md": sampling_page,
}


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
