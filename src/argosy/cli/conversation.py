"""What was said in a chat, and how its answers are drawn."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from argosy.cli.options import SamplingFlags
from argosy.errors import InvalidSampling, UnsupportedParameter
from argosy.types import RequestOutputKind, SamplingParams

Message = dict[str, str]

SETTABLE = sorted(["seed", *(f.name for f in fields(SamplingFlags))])
"""Settings that can change an answer: those that are flags, too."""


class Conversation:
    """Messages kept, the system message, and sampling settings; changed by its methods only.

    defaults: the model's own settings.  settings: the caller's, which win.
    """

    def __init__(
        self, system: str | None, defaults: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        self.system = system
        self.messages: list[Message] = []
        self.settings = settings
        self.show_stats = False
        self._defaults = defaults
        self.params()

    def params(self) -> SamplingParams:
        """How the next answer is drawn. Raises InvalidSampling for a value out of range."""
        values = {"max_tokens": None} | self._defaults | self.settings
        return SamplingParams(**values | {"output_kind": RequestOutputKind.DELTA})

    @property
    def num_exchanges(self) -> int:
        """Questions kept, each with its answer."""
        return len(self.messages) // 2

    def asking(self, question: str, skip: int = 0) -> list[Message]:
        """All messages but the oldest `skip` exchanges, `question` last; nothing is kept yet."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages[2 * skip :], {"role": "user", "content": question}]

    def keep(self, question: str, answer: str) -> None:
        """Remember an exchange."""
        self.messages.append({"role": "user", "content": question})
        self.messages.append({"role": "assistant", "content": answer})

    def forget(self, num_exchanges: int) -> None:
        """Forget the oldest exchanges."""
        del self.messages[: 2 * num_exchanges]

    def clear(self) -> None:
        """Forget every exchange; the system message and the settings stay."""
        self.messages.clear()

    def set_system(self, text: str) -> None:
        """Replace the system message; empty removes it."""
        self.system = text or None

    def set(self, name: str, text: str) -> None:
        """Change one sampling setting; `text` is JSON, or a bare string.

        Raises UnsupportedParameter for an unknown name, InvalidSampling for a value out of range.
        """
        if name not in SETTABLE:
            raise UnsupportedParameter(
                f"{name!r} is no sampling setting; there are {', '.join(SETTABLE)}"
            )
        before = self.settings
        self.settings = before | {name: _value(text)}
        try:
            self.params()
        except (InvalidSampling, UnsupportedParameter):
            self.settings = before
            raise

    def save(self, path: Path) -> None:
        """Write the conversation as JSON, {"messages": [{"role", "content"}, ...]}, to a new file.

        Raises OSError; FileExistsError where there is one already.
        """
        messages = self.asking("")[:-1]
        text = json.dumps({"messages": messages}, ensure_ascii=False, indent=2)
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text + "\n")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
