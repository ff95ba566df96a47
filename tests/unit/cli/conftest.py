"""A client that answers from a list, through the real text layer, with no model underneath."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy.client.intake import Intake
from argosy.client.local import LocalClient
from argosy.text.tokenizer import Tokenizer
from argosy.types import Event, FinishReason, Request
from random_models import RandomModel, write_model, write_tokenizer

EOS = 2
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


class ScriptedEngine:
    """Answers each request with the next text of a list, one token a step.

    fail_at: the answer that ends with an error instead.
    """

    def __init__(self, tokenizer: Tokenizer, answers: Iterator[str], fail_at: str | None) -> None:
        self.requests: list[Request] = []
        self.aborted: list[str] = []
        self._tokenizer = tokenizer
        self._answers = answers
        self._fail_at = fail_at
        self._left: dict[tuple[str, int], list[int]] = {}
        self._num_given: dict[tuple[str, int], int] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._left or self.aborted)

    def add(self, request: Request) -> None:
        self.requests.append(request)
        for index in range(request.params.n):
            text = next(self._answers)
            tokens = self._tokenizer.encode(text, add_special_tokens=False)
            self._left[request.request_id, index] = [] if text == self._fail_at else [*tokens, EOS]

    def abort(self, request_id: str, index: int | None = None) -> None:
        self.aborted.append(request_id)
        self._left = {key: left for key, left in self._left.items() if key[0] != request_id}

    def step(self, now: float) -> list[Event]:
        return [self._event(key) for key in list(self._left)]

    def _event(self, key: tuple[str, int]) -> Event:
        request = next(r for r in self.requests if r.request_id == key[0])
        left, reason, token_ids = self._left[key], None, ()
        if not left:
            reason = FinishReason.ERROR
        else:
            token_ids = (left.pop(0),)
            self._num_given[key] = self._num_given.get(key, 0) + 1
            room = request.max_total_tokens - request.num_prompt_tokens
            if token_ids == (EOS,):
                reason = FinishReason.STOP
            elif self._num_given[key] == room:
                reason = FinishReason.LENGTH
        if reason is not None:
            del self._left[key]
        error = "broken" if reason is FinishReason.ERROR else None
        return Event(
            request_id=key[0], index=key[1], token_ids=token_ids, finish_reason=reason, error=error
        )


MakeClient = Callable[..., LocalClient]


@pytest.fixture
def make_client(tmp_path: Path) -> MakeClient:
    """make_client(answer, ..., max_model_len=, fail_at=); `.engine` is the scripted engine."""

    def make(*answers: str, max_model_len: int = 512, fail_at: str | None = None) -> LocalClient:
        write_tokenizer(tmp_path, RandomModel())
        tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json", {"eos_token": "</s>"})
        engine = ScriptedEngine(tokenizer, iter(answers), fail_at)
        intake = Intake(
            tokenizer,
            TEMPLATE,
            vocab_size=320,
            max_model_len=max_model_len,
            eos_token_ids=(EOS,),
            seed=0,
        )
        client = LocalClient(engine, intake)
        client.scripted = engine  # type: ignore[attr-defined]
        return client

    return make


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small random Llama in Hugging Face form."""
    return write_model(tmp_path / "model", max_position=128)
