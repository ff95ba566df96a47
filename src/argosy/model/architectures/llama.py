"""Llama 2 and 3 (Touvron et al. 2023, arXiv:2307.09288; Llama Team 2024, arXiv:2407.21783)."""

from __future__ import annotations

from argosy.model.blocks import Switches, decoder_program, num_layers, read_decoder
from argosy.model.program import Program
from argosy.model.settings import Settings


def llama(config: Settings) -> Program:
    """attention_bias covers q, k, v and o; mlp_bias gate, up and down."""
    bias = config.flag("attention_bias", False)
    mlp_bias = config.flag("mlp_bias", False)
    switches = Switches(max_position=2048, qkv_bias=bias, o_bias=bias, mlp_bias=mlp_bias)
    return decoder_program(read_decoder(config, switches, [None] * num_layers(config)))
