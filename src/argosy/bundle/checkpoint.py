"""A Hugging Face folder: config, tokenizer files and tensors, checked against the program.

Everything is checked before a byte of weights is read, and all that is wrong with the tensors
is said in one error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy.bundle.safetensors import READABLE, SafetensorsFile, TensorInfo, open_safetensors
from argosy.bundle.texts import Texts, read_json, read_texts
from argosy.errors import CheckpointError, ModelNotFound
from argosy.model.architectures import program_from_config
from argosy.model.program import Program

INDEX = "model.safetensors.index.json"
PREFIX = "model."
DTYPES = {
    "float32": "fp32", "float": "fp32", "F32": "fp32",
    "float16": "fp16", "half": "fp16", "F16": "fp16",
    "bfloat16": "bf16", "BF16": "bf16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint. Make one with `open_checkpoint`.

    program: logical, formats not chosen yet.  dtype: fp32, fp16 or bf16, what the config says or
    else what the tensors are.  files: every tensor's file by the program's source name.
    """

    path: Path
    config: Mapping[str, Any]
    program: Program
    dtype: str
    texts: Texts
    tensors: Mapping[str, tuple[SafetensorsFile, str]]

    def rows(self, source: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start:stop of the tensor the program calls `source`, in fp32."""
        file, name = self.tensors[source]
        return file.rows(name, start, stop)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ModelNotFound where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFound(
            f"{folder} holds neither config.json (of a Hugging Face model) nor a bundle's manifest"
        )
    return read_json(path)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a Hugging Face folder, reading headers only.

    Raises CheckpointError for a model that is not served, absurd config values, broken files,
    and, all in one message, missing, unexpected or misshapen tensors; TokenizerError for a
    tokenizer larger than the embedding.
    """
    config = read_config(folder)
    program = program_from_config(config)
    texts = read_texts(folder, config, program.vocab_size)
    files = [open_safetensors(path) for path in weight_files(folder)]
    tensors = _match(folder, program, files)
    return Checkpoint(folder, config, program, _dtype(config, tensors), texts, tensors)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all present. Raises CheckpointError otherwise."""
    index = folder / INDEX
    if index.is_file():
        return _indexed_files(index)
    found = sorted(folder.glob("*.safetensors"))
    single = folder / "model.safetensors"
    if single in found:
        return [single]
    if found:
        return found
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        raise CheckpointError(
            f"{folder} holds PyTorch pickles only, which can run code when read; save the model as "
            "safetensors first: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
    raise CheckpointError(f"{folder} holds no .safetensors file; fetch the model's weights")


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise CheckpointError(f"{index}: weight_map does not map tensors to files; fetch it again")
    paths = [index.parent / name for name in sorted(names)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent}: {len(missing)} of {len(paths)} weight files are missing: "
            f"{', '.join(missing)}; fetch them"
        )
    return paths


def expected_shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """Shape of every checkpoint tensor the program needs, by source name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for matrix in program.matrices.values():
        shapes |= {s.source: (s.cols, matrix.k) for s in matrix.segments}
    for vector in program.vectors.values():
        shapes |= {s.source: (s.cols,) for s in vector.segments}
    return shapes


def _match(
    folder: Path, program: Program, files: list[SafetensorsFile]
) -> dict[str, tuple[SafetensorsFile, str]]:
    present, problems = _present(files)
    expected = expected_shapes(program)
    matched: dict[str, tuple[SafetensorsFile, str]] = {}
    for source, shape in expected.items():
        if source not in present:
            problems.append(f"missing: {source} {list(shape)}")
            continue
        file, info = present[source]
        problems += [f"{why}: {info.name}" for why in _unfit(info, shape)]
        matched[source] = (file, info.name)
    unexpected = [name for name in present.keys() - expected if not _ignored(name, expected)]
    problems += [f"unexpected: {present[name][1].name}" for name in sorted(unexpected)]
    if problems:
        lines = "\n  ".join(problems)
        raise CheckpointError(
            f"{folder}: the tensors are not those of the {program.architecture} in config.json:"
            f"\n  {lines}"
        )
    return matched


def _present(
    files: list[SafetensorsFile],
) -> tuple[dict[str, tuple[SafetensorsFile, TensorInfo]], list[str]]:
    """All tensors by the name a full model has, and complaints about names that come twice."""
    present: dict[str, tuple[SafetensorsFile, TensorInfo]] = {}
    problems: list[str] = []
    for file in files:
        for info in file.tensors.values():
            name = _full_name(info.name)
            if name in present:
                problems.append(f"twice: {info.name}")
            present[name] = (file, info)
    return present, problems


def _full_name(name: str) -> str:
    """Base models are saved without the "model." that a model with a head puts before its body."""
    body = name.startswith(("embed_tokens.", "layers.", "norm."))
    return PREFIX + name if body else name


def _unfit(info: TensorInfo, shape: tuple[int, ...]) -> Iterator[str]:
    if info.shape != shape:
        yield f"shape {list(info.shape)} should be {list(shape)}"
    if info.dtype not in READABLE:
        yield f"dtype {info.dtype} should be one of {', '.join(READABLE)}"


def _ignored(name: str, expected: Mapping[str, Any]) -> bool:
    """Buffers old versions saved, and the copy of a tied head."""
    tied_copy = name == "lm_head.weight" and "model.embed_tokens.weight" in expected
    return tied_copy or name.endswith("rotary_emb.inv_freq")


def _dtype(config: Mapping[str, Any], tensors: Mapping[str, tuple[SafetensorsFile, str]]) -> str:
    said = config.get("dtype") or config.get("torch_dtype")
    if said is None:
        file, name = next(iter(tensors.values()))
        said = file.tensors[name].dtype
    text = str(said).removeprefix("torch.")
    if text not in DTYPES:
        raise CheckpointError(
            f"config.json: torch_dtype={said!r} is not supported; float32, float16 and bfloat16 are"
        )
    return DTYPES[text]
