"""Passes from program to program, in this order: quantize (others come later)."""
