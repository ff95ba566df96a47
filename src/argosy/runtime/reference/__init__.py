"""The reference runtime in NumPy, slow and obvious: what tests and benchmarks compare with."""

from argosy.runtime.reference.runtime import ReferenceRuntime

__all__ = ["ReferenceRuntime"]
