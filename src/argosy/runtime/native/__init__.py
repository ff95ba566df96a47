"""The native CPU runtime: a program lowered once, then one call of C++ per step."""

from argosy.runtime.native.runtime import NativeRuntime, variants

__all__ = ["NativeRuntime", "variants"]
