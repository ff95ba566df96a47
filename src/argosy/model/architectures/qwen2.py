"""Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671)."""

from __future__ import annotations

from argosy.model.blocks import Switches, decoder_program, mixed_windows, read_decoder
from argosy.model.program import Program
from argosy.model.settings import Settings


def qwen2(config: Settings) -> Program:
    """q, k and v have biases, always; windows from max_window_layers on, if switched on."""
    switches = Switches(max_position=32768, qkv_bias=True)
    return decoder_program(read_decoder(config, switches, mixed_windows(config)))
