"""Text on both sides of the engine: tokens, chat templates, stop strings."""
