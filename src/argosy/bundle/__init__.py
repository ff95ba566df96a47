"""Checkpoints in, bundles out: reading, packing, the manifest, opening, the cache."""
