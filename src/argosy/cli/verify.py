"""`argosy verify`: every byte of a bundle against the sums it was built with."""

from __future__ import annotations

from typing import Annotated

import typer

from argosy.bundle.cache import resolve_model
from argosy.bundle.open import verify
from argosy.cli.environment import ended_by_sigterm, read_environment
from argosy.cli.options import Model, Quantize, Revision
from argosy.cli.terminal import ProgressLine
from argosy.model.describe import bytes_text

HELP = (
    """Of a checkpoint, its bundle in the cache is checked, and built first if it is not there."""
)

EXAMPLES = """\b
Examples:
  argosy verify
  argosy verify my-llama-w4"""


def run(
    model: Model = None,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="Which bundle of a checkpoint.")
    ] = "auto",
    quantization: Quantize = None,
    revision: Revision = None,
) -> None:
    """Check the bundle."""
    with ended_by_sigterm():
        path = resolve_model(
            model,
            cache_dir=read_environment().cache,
            dtype=dtype,
            quantization=quantization,
            revision=revision,
            progress=ProgressLine("building"),
        )
    manifest = verify(path, ProgressLine("verifying"))
    files = [*manifest.weights, *manifest.texts]
    print(
        f"{path}: {len(files)} files, {bytes_text(sum(f.num_bytes for f in files))}, all sums right"
    )
