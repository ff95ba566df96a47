"""Prompts of a wanted number of tokens, as text, for a tokenizer nobody here has seen.

The words below are counted once by the server, in one place of one sentence each; those that cost
the least are kept, and a prompt is a fixed beginning and as many of them as are missing. Draws
differ, so no prompt is found in a prefix cache beyond the chat template and that first word.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from argosy.errors import ArgosyError, ConfigError

WORDS = tuple(
    "the of and to in is it he was for on are as his they at be this have from or one had by not "
    "but all we can out up so if no my has her she an me do who its now him".split()
)
KEPT_MIN = 8
FIRST = "it"
REPEATS = 8


@dataclass(frozen=True)
class Prompts:
    """Writes prompts. overhead: tokens beside the words; cost: tokens of each word."""

    words: tuple[str, ...]
    cost: int
    overhead: int

    @property
    def shortest(self) -> int:
        """Tokens of the shortest prompt with a word to tell it from others."""
        return self.overhead + self.cost

    def require(self, input_len: int) -> None:
        """Raise ConfigError when no prompt can be that short."""
        if input_len < self.shortest:
            raise ConfigError(
                f"input-len={input_len} is shorter than a prompt can be here; "
                f"set at least {self.shortest}"
            )

    def write(self, input_len: int, draw: random.Random) -> str:
        """A prompt of about `input_len` tokens: exact where words cost one each."""
        number = max(1, round((input_len - self.overhead) / self.cost))
        return " ".join((FIRST, *draw.choices(self.words, k=number)))


async def learn(count: Callable[[str], Awaitable[int]]) -> Prompts:
    """Find out what words cost, by `count`: tokens of a text.

    Raises ArgosyError for a tokenizer to which no words cost the same.
    """
    bare = await count(FIRST)
    costs: dict[int, list[str]] = {}
    for word in WORDS:
        more = await count(" ".join((FIRST, *[word] * REPEATS))) - bare
        if more > 0 and more % REPEATS == 0:
            costs.setdefault(more // REPEATS, []).append(word)
    for cost in sorted(costs):
        if len(costs[cost]) >= KEPT_MIN:
            return Prompts(tuple(costs[cost]), cost, bare)
    raise ArgosyError(
        "the server's token counts do not add up word by word, so prompts of a given length cannot "
        f"be written; it counted {bare} tokens for one word"
    )
