"""Small tokenizers of every kind, trained or written on the spot."""

from __future__ import annotations

import functools

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from argosy.text.tokenizer import Tokenizer

SPECIALS = ["<s>", "</s>", "<|im_end|>"]
TEXT = [
    "the cat sat on the mat, and the dog — a good dog — sat there too.",
    "Ünïcödé ist schön; größer, weiß, Straße.",
    "日本語の文章です。東京は日本の首都です。",
    "emoji 😀😃 and families 👩‍👩‍👧 too 😀",
]


@functools.cache
def byte_level(vocab_size: int = 320) -> Tokenizer:
    """Byte-level BPE with a few merges, so that characters are cut in every way."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    backend.add_tokens(["<think>", "é東"])
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"})


@functools.cache
def byte_fallback() -> Tokenizer:
    """As Llama 2: spaces are a mark, unknown characters are bytes."""
    words = ["▁", "▁the", "▁cat", "s", "t", "é", "日"]
    tokens = [*SPECIALS, "<unk>", *(f"<0x{b:02X}>" for b in range(256)), *words]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.add_special_tokens(SPECIALS)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(backend, {"unk_token": "<unk>"})


@functools.cache
def word_piece() -> Tokenizer:
    """As BERT: a token's text depends on whether it begins the text."""
    tokens = ["[UNK]", "[CLS]", "the", "cat", "##s", "##é", ".", ",", "n't", "日"]
    backend = tokenizers.Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    backend.add_special_tokens(["[CLS]"])
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=True)
    return Tokenizer(backend, {"unk_token": "[UNK]"})


@functools.cache
def metaspace() -> Tokenizer:
    """As T5: the mark of a first token is dropped."""
    tokens = ["<unk>", "</s>", "▁the", "▁cat", "▁", "s", "é"]
    backend = tokenizers.Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, "<unk>"))
    backend.add_special_tokens(["</s>"])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return Tokenizer(backend)
