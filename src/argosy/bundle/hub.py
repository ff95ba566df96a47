"""Find a model by name: a folder, or a repository in the local Hugging Face cache or online."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub  # loads its parts when they are first named, so that a folder costs nothing

from argosy.bundle.checkpoint import weight_files
from argosy.bundle.manifest import is_bundle
from argosy.errors import CheckpointError, ModelNotFound

FILES = ("*.safetensors", "*.json", "*.jinja")
"""What is fetched of a repository: no code, no pickles."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def locate(model: Path | str, revision: str | None = None) -> Path:
    """The folder of a bundle or Hugging Face model, by path or as `org/model`.

    A repository is taken from the local cache if it is complete there, and fetched otherwise.
    Raises ModelNotFound where there is no such thing.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelNotFound(f"{path} is a file; give its folder, with config.json or manifest.json")
    if not _REPOSITORY.fullmatch(str(model)):
        raise ModelNotFound(f"there is no folder {path}; give a folder, or org/model")
    cached = _cached(str(model), revision)
    return cached if cached is not None else _fetch(str(model), revision)


def _cached(repository: str, revision: str | None) -> Path | None:
    """The local snapshot if there is one with all its weights."""
    download = huggingface_hub.snapshot_download
    try:
        folder = Path(download(repository, revision=revision, local_files_only=True))
        if is_bundle(folder) or weight_files(folder):
            return folder
    except (huggingface_hub.errors.LocalEntryNotFoundError, CheckpointError):
        return None
    return None


def _fetch(repository: str, revision: str | None) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=list(FILES)
            )
        )
    except (huggingface_hub.errors.HfHubHTTPError, ValueError, OSError) as exc:
        reason = str(exc).partition("\n")[0]
        raise ModelNotFound(
            f"{repository} is no folder, is not whole in the local Hugging Face cache, and cannot "
            f"be fetched ({reason}); check the name, or `hf download {repository}` where you can"
        ) from exc
