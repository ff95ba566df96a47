"""Reading of a Hugging Face config: every value typed, bounded, and refused by name.

Bounds are generous for any real model and small enough that no later sum can overflow or
allocate without end. A key that is absent or null takes its default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from argosy.errors import CheckpointError

_REQUIRED = object()


class Settings:
    """A read-only view of one config (or of a map inside it); raises CheckpointError."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self._values = values
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def raw(self, name: str) -> Any:
        """The value as it stands, or None."""
        return self._values.get(name)

    def refuse(self, name: str, why: str) -> CheckpointError:
        """An error that names the entry and its value."""
        return CheckpointError(f"{self._where}: {name}={self.raw(name)!r} {why}")

    def whole(self, name: str, low: int, high: int, default: Any = _REQUIRED) -> int:
        """A whole number in [low, high]."""
        value = self._get(name, default)
        if type(value) is not int:
            raise self.refuse(name, "must be a whole number")
        if not low <= value <= high:
            raise self.refuse(name, f"must lie in [{low}, {high}]")
        return value

    def number(self, name: str, low: float, high: float, default: Any = _REQUIRED) -> float:
        """A finite number with low < value <= high."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(name, "must be a number")
        number = float(value) if abs(value) < 2.0**1000 else math.inf
        if not low < number <= high:  # false for NaN too
            raise self.refuse(name, f"must be above {low:g} and at most {high:g}")
        return number

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "must be true or false")
        return value

    def neutral(self, name: str, *values: Any) -> None:
        """Refuse an entry that is present with a value other than `values` and null."""
        value = self.raw(name)
        if value is not None and value not in values:
            known = ", ".join(repr(v) for v in values) or "null"
            raise self.refuse(name, f"is not supported; only {known} is")

    def inner(self, name: str) -> Settings | None:
        """A map inside the config, or None where it is absent, null or empty."""
        value = self.raw(name)
        if value is None or value == {}:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, "must be a map")
        return Settings(value, f"{self._where}, {name}")

    def _get(self, name: str, default: Any) -> Any:
        value = self.raw(name)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise CheckpointError(f"{self._where}: {name} is missing; this kind of model needs it")
        return default
