"""Choose each matrix' format: the dtype, one default, and rules by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct
from msgspec.structs import replace

from argosy.errors import ConfigError
from argosy.model.formats import AUTO_DTYPE, Format, Kind, parse_dtype, parse_format
from argosy.model.program import Embed, Head, Matrix, Program

Rules = Sequence[tuple[str, str]]
"""(glob of matrix or segment names, format), the first that matches wins."""


class Numbers(Struct, frozen=True):
    """What "auto" came to: dtype of activations, fp32, fp16 or bf16; the default format."""

    dtype: str
    format: Format


def choose_numbers(
    checkpoint_dtype: str,
    dtype: str = "auto",
    quantization: str | None = None,
    rules: Rules = (),
    *,
    device: str = "cpu",
) -> Numbers:
    """Settle dtype and default format from what the checkpoint holds and what was asked for.

    checkpoint_dtype: fp32, fp16 or bf16.  Raises ConfigError for a dtype and formats that exclude
    each other: float32, where it is asked for, means weights, activations and cache in fp32.
    """
    asked = parse_dtype(dtype)
    if asked == "fp32":
        wanted = [("quantization", quantization)] if quantization else []
        _check_fp32([*wanted, *((f"rule {pattern}", text) for pattern, text in rules)])
    if quantization is None:
        picked = AUTO_DTYPE[device][checkpoint_dtype][0] if asked == "auto" else asked
        return Numbers(picked, Format(Kind(picked)))
    weights = parse_format(quantization)
    if asked == "auto":
        return Numbers("bf16" if weights.quantized else str(weights), weights)
    if not weights.quantized and str(weights) != asked:
        raise ConfigError(f"dtype={dtype} and quantization={quantization} disagree; drop one")
    return Numbers(asked, weights)


def _check_fp32(formats: Sequence[tuple[str, str]]) -> None:
    for what, text in formats:
        if parse_format(text).kind is not Kind.FP32:
            raise ConfigError(
                f"dtype=float32 with {what}={text}: float32 means weights, activations and cache "
                "in fp32; drop one of the two"
            )


def quantize(program: Program, numbers: Numbers, rules: Rules = ()) -> Program:
    """`program` with a format for each matrix: the first rule that matches, else the default.

    Under w4 the head and the embedding default to w8: they are read once per token and cost the
    most accuracy. Raises ConfigError for a rule that matches nothing.
    """
    parsed = [(pattern, parse_format(text)) for pattern, text in rules]
    for pattern, weights in parsed:
        if not any(_matches(m, pattern) for m in program.matrices.values()):
            raise ConfigError(f"rule {pattern}={weights} matches no matrix; see `argosy show`")
    outer = {op.weight for op in program.ops if isinstance(op, Embed | Head)}
    matrices = {
        name: replace(matrix, format=_pick(matrix, name in outer, numbers.format, parsed))
        for name, matrix in program.matrices.items()
    }
    return replace(program, matrices=matrices)


def _pick(matrix: Matrix, outer: bool, default: Format, rules: list[tuple[str, Format]]) -> Format:
    for pattern, weights in rules:
        if _matches(matrix, pattern):
            return weights
    if outer and default.kind is Kind.W4:
        return Format(Kind.W8, default.group)
    return default


def _matches(matrix: Matrix, pattern: str) -> bool:
    names = (matrix.name, *(segment.name for segment in matrix.segments))
    return any(fnmatchcase(name, pattern) for name in names)
