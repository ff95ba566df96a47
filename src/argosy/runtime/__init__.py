"""Runtimes: each executes programs on one kind of device and owns its weights and pages."""
