"""Inverse frequencies of rotary embeddings, in fp32 steps as transformers computes them."""

from __future__ import annotations

import math
import struct

from argosy.errors import CheckpointError
from argosy.model.program import Rope
from argosy.model.settings import Settings

SCALINGS = ("default", "linear", "llama3")


def read_rope(config: Settings, head_dim: int, max_position: int) -> Rope:
    """The rope of a config in either form: rope_theta and rope_scaling, or rope_parameters.

    Raises CheckpointError for a scaling that is not served, and for absurd numbers.
    Source: Su et al. 2021, arXiv:2104.09864; linear: Chen et al. 2023, arXiv:2306.15595;
    llama3: Llama Team 2024, arXiv:2407.21783.
    """
    parameters = config.inner("rope_parameters") or config.inner("rope_scaling")
    config.neutral("partial_rotary_factor", 1)
    default_theta = config.number("rope_theta", 1.0, 1e15, 10000.0)
    if parameters is None:
        return Rope(tuple(_plain(default_theta, head_dim)))
    kind = parameters.raw("rope_type") or parameters.raw("type") or "default"
    if kind not in SCALINGS:
        raise CheckpointError(
            f"rope scaling {kind!r} is not supported; this version serves {', '.join(SCALINGS)}"
        )
    parameters.neutral("partial_rotary_factor", 1)
    inv_freq = _plain(parameters.number("rope_theta", 1.0, 1e15, default_theta), head_dim)
    if kind == "linear":
        factor = _single(parameters.number("factor", 0.0, 1e6))
        inv_freq = [_single(f / factor) for f in inv_freq]
    elif kind == "llama3":
        inv_freq = _llama3(inv_freq, parameters, max_position)
    return Rope(tuple(inv_freq))


def _single(value: float) -> float:
    """`value` rounded to fp32; of one +, -, * or / of fp32 numbers this is the fp32 result."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _plain(theta: float, dim: int) -> list[float]:
    base = _single(theta)
    powers = (_single(base ** _single(i / dim)) for i in range(0, dim, 2))
    return [_single(1.0 / power) for power in powers]


def _llama3(inv_freq: list[float], p: Settings, max_position: int) -> list[float]:
    factor = _single(p.number("factor", 0.0, 1e6))
    low = p.number("low_freq_factor", 0.0, 1e6)
    high = p.number("high_freq_factor", low, 1e6)
    old = float(p.whole("original_max_position_embeddings", 1, 2**30, max_position))

    def scaled(f: float) -> float:
        wavelen = _single(_single(1.0 / f) * _single(2 * math.pi))
        if wavelen < old / high:
            return f
        if wavelen > old / low:
            return _single(f / factor)
        turns = _single(_single(1.0 / wavelen) * _single(old))
        smooth = _single(_single(turns - _single(low)) / _single(high - low))
        slow = _single(_single(_single(1.0 - smooth) * f) / factor)
        return _single(slow + _single(smooth * f))

    return [scaled(f) for f in inv_freq]
