"""Qwen3, dense (Yang et al. 2025, arXiv:2505.09388)."""

from __future__ import annotations

from argosy.model.blocks import Switches, decoder_program, mixed_windows, read_decoder
from argosy.model.program import Program
from argosy.model.settings import Settings


def qwen3(config: Settings) -> Program:
    """q and k are normed per head; head_dim is 128 where the config is silent."""
    bias = config.flag("attention_bias", False)
    switches = Switches(max_position=32768, head_dim=128, qkv_bias=bias, o_bias=bias, qk_norm=True)
    return decoder_program(read_decoder(config, switches, mixed_windows(config)))
