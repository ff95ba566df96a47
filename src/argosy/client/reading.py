"""The text side of a prepared model: its tokenizer, and what accepts requests for it."""

from __future__ import annotations

from pathlib import Path

from argosy.bundle.hub import locate
from argosy.bundle.open import Bundle
from argosy.bundle.texts import TOKENIZER, TOKENIZER_CONFIG, read_json
from argosy.client.intake import Intake
from argosy.client.prepare import Prepared
from argosy.engine.wire import FRONT_SHIFT
from argosy.errors import TokenizerError
from argosy.text.tokenizer import Tokenizer, special_tokens


def open_intake(prepared: Prepared, front: int = 0) -> Intake:
    """What accepts requests in front number `front`. Raises TokenizerError."""
    program, seed = prepared.bundle.program, prepared.config.seed
    return Intake(
        open_tokenizer(prepared.bundle, prepared.config.tokenizer),
        prepared.chat_template,
        vocab_size=program.vocab_size,
        max_model_len=prepared.max_model_len,
        eos_token_ids=prepared.bundle.eos_token_ids,
        seed=seed if seed is None else seed + front,
        first_number=front << FRONT_SHIFT,
    )


def open_tokenizer(bundle: Bundle, source: str | None = None) -> Tokenizer:
    """The bundle's tokenizer, or that of `source`: a tokenizer.json, a model's folder or org/model.

    Raises TokenizerError where there is none, or it is larger than the embedding.
    """
    if source is None:
        file, settings = bundle.tokenizer_file, bundle.tokenizer_config
    else:
        path = Path(source)
        file = path if path.is_file() else locate(source) / TOKENIZER
        beside = file.with_name(TOKENIZER_CONFIG)
        settings = read_json(beside) if beside.is_file() else bundle.tokenizer_config
    if file is None:
        raise TokenizerError(
            "this model has no tokenizer.json; pass tokenizer=FOLDER of one that fits"
        )
    return Tokenizer.from_file(file, special_tokens(settings), bundle.program.vocab_size)
