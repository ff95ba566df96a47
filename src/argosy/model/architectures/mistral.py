"""Mistral (Jiang et al. 2023, arXiv:2310.06825)."""

from __future__ import annotations

from argosy.model.blocks import Switches, decoder_program, num_layers, read_decoder
from argosy.model.program import Program
from argosy.model.settings import Settings


def mistral(config: Settings) -> Program:
    """No biases; one window for all layers: 4,096 where the config is silent, none where null."""
    window = config.whole("sliding_window", 1, 2**27, 4096)
    explicit_off = "sliding_window" in config and config.raw("sliding_window") is None
    windows = [None if explicit_off else window] * num_layers(config)
    return decoder_program(read_decoder(config, Switches(max_position=131072), windows))
