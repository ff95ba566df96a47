"""build, show, verify and bench on a random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from argosy.cli.build import parse_rules
from argosy.cli.main import app
from argosy.cli.opening import open_model
from argosy.cli.options import EngineFlags
from argosy.config import EngineConfig


def run(*arguments: str) -> object:
    """What `argosy ARGUMENTS` does, in this process."""
    return CliRunner().invoke(app, list(arguments))


def test_build_then_show_then_verify(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    built = run(
        "build", str(model), "-o", str(out), "--quantize", "w4", "--tensor", "layers.*.down=w8"
    )
    assert built.exit_code == 0, built.output
    assert str(out) in built.stdout and "w4g32" in built.stdout
    shown = json.loads(run("show", str(out), "--json").stdout)
    assert {"w4g32", "w8g32"} <= set(shown["bytes_by_format"])
    verified = run("verify", str(out))
    assert verified.exit_code == 0 and "all sums right" in verified.stdout


def test_verify_finds_a_flipped_byte(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    run("build", str(model), "-o", str(out))
    weights = next(out.glob("*.bin"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    done = run("verify", str(out))
    assert done.exit_code == 1 and weights.name in done.stderr


def test_build_takes_a_tensorrt_llm_config(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "llama", "dtype": "float16", "tp_size": 1}))
    done = run("build", str(model), "-o", str(tmp_path / "out"), "--config", str(config))
    assert done.exit_code == 0, done.output
    assert "fp16" in done.stdout


@pytest.mark.parametrize("text", ["[]", "{", "nothing"])
def test_a_config_that_is_no_object_is_refused(model: Path, tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    done = run("build", str(model), "-o", str(tmp_path / "out"), "--config", str(config))
    assert done.exit_code == 1 and str(config) in done.stderr


def test_build_refuses_what_it_cannot_do(model: Path, tmp_path: Path) -> None:
    for flag, value in (("--quantize", "w3"), ("--tensor", "no.such=w8"), ("--dtype", "int1")):
        done = run("build", str(model), "-o", str(tmp_path / "out"), flag, value)
        assert done.exit_code == 1, flag
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["head", "=w8", "head="])
def test_a_rule_needs_both_sides(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="PATTERN=FORMAT"):
        parse_rules([text])


def test_a_pattern_may_hold_an_equals_sign() -> None:
    assert parse_rules(["a=b=w8"]) == [("a=b", "w8")]


def test_show_a_checkpoint_builds_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGOSY_CACHE", str(tmp_path / "cache"))
    done = run("show", str(model), "--program", "--quantize", "w8")
    assert done.exit_code == 0
    assert "w8g32" in done.stdout and "logits = h @ head" in done.stdout
    assert not (tmp_path / "cache").exists()


def test_bench_tells_a_row_per_batch_size(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGOSY_CACHE", str(tmp_path / "cache"))
    flags = "--batch-size 1 --batch-size 3 --input-len 5 --output-len 4 --repeat 1".split()
    done = run("bench", str(model), *flags, "--json", "--runtime", "reference")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["batch_size"] for row in rows] == [1, 3]
    assert all(row["decode_tokens_per_s"] > 0 for row in rows)
    table = run("bench", str(model), *flags, "--runtime", "reference").stdout.splitlines()
    assert len(table) == 3 and len(table[0]) == len(table[1])


def test_bench_profiles_what_keeps_times(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGOSY_CACHE", str(tmp_path / "cache"))
    flags = "--batch-size 2 --input-len 5 --output-len 4 --repeat 1 --profile".split()
    (row,) = run("bench", str(model), *flags, "--json").stdout.splitlines()
    shares = json.loads(row)["shares"]
    assert {"qkv", "attention", "gate_up", "down", "head", "sample"} <= set(shares)
    assert all(share >= 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1)
    lines = run("bench", str(model), *flags).stdout.splitlines()
    assert any(line.endswith("%  attention") for line in lines)
    refused = run("bench", str(model), *flags, "--runtime", "reference")
    assert refused.exit_code == 1 and "--runtime native" in refused.stderr


def test_an_explicit_default_wins_over_the_limit_of_a_bundle() -> None:
    assert EngineFlags().given == []
    flags = EngineFlags(max_num_seqs=EngineConfig.max_num_seqs, max_model_len=64)
    assert flags.given == ["max_model_len", "max_num_seqs"]
    assert EngineFlags().config(None) == EngineConfig()


def test_template_and_tokenizer_are_handed_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGOSY_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "t.jinja"
    file.write_text("<<{{ messages[-1].content }}>>")
    flags = EngineFlags(chat_template=str(file), tokenizer=str(model), runtime="reference")
    client = open_model(flags, str(model))
    assert client.intake.render([{"role": "user", "content": "hi"}]) == "<<hi>>"
    assert flags.config(str(model)).tokenizer == str(model)
    done = run("chat", str(model), "--chat-template", str(tmp_path / "none"))
    assert done.exit_code == 1 and "neither Jinja text nor a readable file" in done.stderr
