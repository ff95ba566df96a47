"""Models by path or as org/model, with and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

from argosy.bundle.checkpoint import open_checkpoint
from argosy.bundle.hub import locate
from argosy.errors import CheckpointError, ModelNotFound
from random_models import write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local Hugging Face cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(hub: Path, **options: Any) -> Path:
    """A repository org/tiny in the cache, as huggingface_hub lays it out."""
    repository = hub / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return write_model(repository / "snapshots" / COMMIT, **options)


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert locate(tmp_path) == tmp_path
    assert locate(str(tmp_path)) == tmp_path


def test_a_repository_is_found_offline(hub: Path) -> None:
    snapshot = put(hub, shards=2)
    assert locate("org/tiny") == snapshot
    assert locate("org/tiny", COMMIT) == snapshot


def test_what_is_not_there_says_so(hub: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"org/other is no folder.*cannot be fetched"):
        locate("org/other")
    put(hub)
    with pytest.raises(ModelNotFound, match="cannot be fetched"):
        locate("org/tiny", "another-revision")


def test_half_a_repository_is_fetched_again(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, asked = put(hub, shards=2), []
    (snapshot / "model-00002-of-00002.safetensors").unlink()

    def download(repository: str, **options: Any) -> str:
        asked.append(options.get("local_files_only", False))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("org/tiny") == snapshot
    assert asked == [True, False]


def test_half_a_repository_offline_says_what_is_missing(hub: Path) -> None:
    (put(hub, shards=2) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00002"):
        open_checkpoint(locate("org/tiny"))


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "a/b/c", "org/mo del", ""])
def test_what_can_be_no_repository_is_not_asked_for(hub: Path, name: str) -> None:
    if name:
        with pytest.raises(ModelNotFound, match="no folder"):
            locate(name)
    else:
        assert locate(name) == Path()


def test_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("")
    with pytest.raises(ModelNotFound, match="is a file"):
        locate(path)


def test_an_absent_repository_is_fetched(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_model(tmp_path / "fetched")
    plain = huggingface_hub.snapshot_download

    def download(repository: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return plain(repository, **options)
        assert "*.py" not in options["allow_patterns"]
        return str(whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("org/tiny") == whole
