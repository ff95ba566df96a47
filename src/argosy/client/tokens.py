"""The tokenizer as a caller sees it: by the names scripts written for vLLM and transformers use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from argosy.client.intake import Intake, read_template
from argosy.errors import InvalidPrompt
from argosy.text.template import Message
from argosy.types import plain, whole


class ModelTokenizer:
    """Text to ids and back, and chat templates, for the model an `LLM` serves."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True
    ) -> dict[str, list[int] | list[list[int]]]:
        """{"input_ids": ids} of a text, or a list of ids for a list of texts."""
        if isinstance(text, str):
            return {"input_ids": self.encode(text, add_special_tokens)}
        return {"input_ids": [self.encode(one, add_special_tokens) for one in text]}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of `text`. Raises InvalidPrompt for what no tokenizer could read."""
        return self._intake.tokenizer.encode(text, add_special_tokens)

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of one id or of many. Raises InvalidPrompt for what is no id."""
        given = plain(token_ids)
        ids = []
        for item in given if isinstance(given, Iterable) else [given]:
            id_ = whole(item)
            if id_ is None or not 0 <= id_ < 2**32:
                raise InvalidPrompt(
                    f"token id {item!r} must be a whole number from 0 to {self.vocab_size - 1}"
                )
            ids.append(id_)
        return self._intake.tokenizer.decode(ids, skip_special_tokens)

    def batch_decode(
        self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        """The texts of many answers."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it, None where there is none."""
        return self._intake.tokenizer.token_id(token)

    def apply_chat_template(
        self,
        conversation: Sequence[Message],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        chat_template: str | Path | None = None,
        tools: Sequence[Any] | None = None,
        **variables: Any,
    ) -> str | list[int]:
        """A conversation as the model reads it: its ids, or with tokenize=False its text.

        variables: handed to the template. Raises TemplateError where there is none, or it refuses.
        """
        text = self._intake.render(
            conversation,
            None if chat_template is None else read_template(chat_template),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            variables=variables,
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The model's names for some tokens, such as {"eos_token": "</s>"}."""
        return dict(self._intake.tokenizer.special_tokens)

    @property
    def eos_token(self) -> str | None:
        """The end-of-sequence token's text."""
        return self.special_tokens_map.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The end-of-sequence token's id."""
        return self._id_of("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id of the token a text begins with."""
        return self._id_of("bos_token")

    @property
    def vocab_size(self) -> int:
        """Ids the tokenizer knows."""
        return self._intake.tokenizer.num_ids

    def __len__(self) -> int:
        return self.vocab_size

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.convert_tokens_to_ids(token)
