"""`argosy build`: a checkpoint becomes a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from argosy.bundle.open import open_bundle
from argosy.bundle.trtllm import Builder
from argosy.cli.environment import ended_by_sigterm
from argosy.cli.terminal import ProgressLine
from argosy.errors import ConfigError
from argosy.model.describe import describe

HELP = """Formats are fp32, fp16, bf16, w8 and w4; w8 and w4 take a group of 32, 64 or 128 weights
per scale (w8g128), w4 also zero points (w4g64z). The folder appears whole or not at all."""

EXAMPLES = """\b
Examples:
  argosy build ~/models/my-llama --quantize w4 -o my-llama-w4
  argosy build org/model --quantize w4g64 --tensor 'layers.*.down=w8' --tensor head=bf16 -o mixed
  argosy build ~/models/my-llama --config trtllm.json -o engine"""


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A Hugging Face folder, or org/model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The new folder.")],
    quantize: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Weight format; default: the checkpoint's.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Activations, and weights that are not quantized."),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=FORMAT", help="Another format for some; first match counts."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A build config in TensorRT-LLM's style (JSON)."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit.")
    ] = None,
) -> None:
    """Build the bundle and describe it."""
    settings = {} if config is None else read_config(config)
    if dtype is not None:
        settings["dtype"] = dtype
    builder = Builder(
        model,
        output,
        quantization=quantize,
        rules=parse_rules(tensor or []),
        revision=revision,
        progress=ProgressLine("building"),
    )
    with ended_by_sigterm():
        path = builder.build_engine(settings)
    print(f"{path}\n{describe(open_bundle(path).program)}")


def read_config(path: Path) -> dict[str, Any]:
    """The build config in a file. Raises ConfigError where it is not a JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ConfigError(f"{path} is not JSON: {exc}; correct it") from exc
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds {type(config).__name__}, not an object of settings")
    return config


def parse_rules(texts: list[str]) -> list[tuple[str, str]]:
    """(pattern, format) of each PATTERN=FORMAT. Raises typer.BadParameter for anything else."""
    rules = []
    for text in texts:
        pattern, _, form = text.rpartition("=")
        if not (pattern and form):
            raise typer.BadParameter(f"{text!r} is not PATTERN=FORMAT, as in 'layers.*.down=w8'")
        rules.append((pattern, form))
    return rules
