"""`argosy show`: what a model is, without loading it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer

from argosy.bundle.cache import program_of
from argosy.cli.options import Model, Quantize, Revision
from argosy.model.describe import describe, describe_program, kv_bytes_per_token
from argosy.model.formats import CACHE_DTYPES
from argosy.model.program import Program

HELP = """Reads headers only. A checkpoint is shown as it would be served; --quantize shows it in
another format, without building anything."""

EXAMPLES = """\b
Examples:
  argosy show
  argosy show ~/models/my-llama --quantize w4
  argosy show my-llama-w4 --program"""


def run(
    model: Model = None,
    program: Annotated[
        bool, typer.Option("--program", help="The operations in words, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="As if built with this dtype.")
    ] = "auto",
    quantization: Quantize = None,
    revision: Revision = None,
) -> None:
    """Describe the model."""
    name = model or "embedded"
    shown = program_of(model, dtype=dtype, quantization=quantization, revision=revision)
    if as_json:
        print(json.dumps(facts(name, shown, program), indent=2))
        return
    print(f"model            {name}\n{describe(shown)}")
    if program:
        print(f"\n{describe_program(shown)}")


def facts(name: str, program: Program, with_program: bool) -> dict[str, Any]:
    """What --json prints; bytes and counts are numbers."""
    matrices = program.matrices.values()
    formats = {str(m.format) for m in matrices}
    found = {
        "model": name,
        "architecture": program.architecture,
        "num_layers": program.num_layers,
        "hidden_size": program.hidden_size,
        "vocab_size": program.vocab_size,
        "max_position": program.max_position,
        "num_parameters": program.num_parameters,
        "weight_bytes": program.weight_bytes,
        "bytes_by_format": {
            form: sum(m.num_bytes for m in matrices if str(m.format) == form)
            for form in sorted(formats)
        },
        "cache_bytes_per_token": {d: kv_bytes_per_token(program, d) for d in CACHE_DTYPES},
    }
    return found | ({"program": msgspec.to_builtins(program)} if with_program else {})
