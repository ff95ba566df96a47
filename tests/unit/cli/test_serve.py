"""`argosy serve` up to the server: flags, the file, the environment, the dry run."""

from __future__ import annotations

import logging
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from argosy.cli import serve
from argosy.cli.accepted import ONLY, SERVER_NO_EFFECT, WHY, AcceptedFlags
from argosy.cli.main import app, load_verb
from argosy.client.options import LLMOptions
from argosy.config import NO_EFFECT_ON_CPU, EngineConfig, ServerConfig
from argosy.engine.machine import read_machine, served_machine

VLLM = (Path(__file__).parents[2] / "vllm.yaml").read_text()
WITHOUT_MODEL = VLLM.partition("\n")[2]

Asked = tuple[EngineConfig, ServerConfig, dict[str, Any]]
Ask = Callable[..., Asked]


def run(*arguments: str, **variables: str) -> Any:
    """What `argosy serve ARGUMENTS` does, in this process."""
    keys: dict[str, str | None] = {"ARGOSY_API_KEY": None, "VLLM_API_KEY": None}
    return CliRunner(env=keys | variables).invoke(app, ["serve", *arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """asked(ARGUMENTS): what a server would be started with."""
    seen: list[Asked] = []
    monkeypatch.setattr(serve, "serve", lambda e, s, **more: seen.append((e, s, more)))

    def ask(*arguments: str, **variables: str) -> Asked:
        done = run(*arguments, **variables)
        assert done.exit_code == 0, done.output
        return seen.pop()

    return ask


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """write(TEXT): the path of a YAML file of it."""

    def put(text: str, name: str = "serve.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return put


def test_nothing_given_is_every_default(asked: Ask) -> None:
    engine, server, more = asked()
    assert (engine, server) == (EngineConfig(), ServerConfig())
    assert (list(more["given"]), more["chat_template"]) == ([], None)


def test_flags_have_vllms_names(asked: Ask) -> None:
    flags = (
        "org/m --host 0.0.0.0 --port 9 -tp 1 -pp 1 -q w4 -asc 2 --max_num_seqs 7 --block-size 16 "
        "--max-model-len 32k --max_num_batched_tokens=4k --gpu-memory-utilization 0.5 --seed 3 "
        "--scheduling-policy priority --max-num-queued-reqs 0 --max-num-queued-tokens 1m "
        "--shutdown-timeout 5 --request-timeout 9.5 --max-logprobs 5 --max-body-bytes 2M "
        "--disable-log-requests --strict-fields --explain --protect-probes "
        "--no-enable-prefix-caching"
    )
    engine, server, more = asked(*flags.split())
    assert engine == EngineConfig(
        model="org/m",
        quantization="w4",
        max_num_seqs=7,
        max_model_len=32768,
        max_num_batched_tokens=4096,
        gpu_memory_utilization=0.5,
        seed=3,
        scheduling_policy="priority",
        enable_prefix_caching=False,
    )
    assert server == ServerConfig(
        host="0.0.0.0",
        port=9,
        api_server_count=2,
        max_num_queued_reqs=0,
        max_num_queued_tokens=2**20,
        shutdown_timeout=5.0,
        request_timeout=9.5,
        max_logprobs=5,
        max_body_bytes=2**21,
        log_requests=False,
        strict_fields=True,
        explain=True,
        protect_probes=True,
    )
    assert set(more["given"]) == {"max_num_seqs", "max_model_len", "max_num_batched_tokens"}


def test_several_words_are_several_names(asked: Ask) -> None:
    _, server, _ = asked("m", "--served-model-name", "a", "b", "--api-key", "k", "l", "--port", "1")
    assert (server.served_model_name, server.api_keys) == (("a", "b"), ("k", "l"))
    engine, server, _ = asked("--served-model-name", "a", "m")
    assert (engine.model, server.served_model_name) == ("m", ("a",))
    origins = '["http://a", "http://b"]'
    assert asked("--allowed-origins", origins)[1].allowed_origins == ("http://a", "http://b")


@pytest.mark.parametrize("words", ["--model m", "--port 1 --model m", "--model=m", "m"])
def test_the_model_may_be_a_flag(asked: Ask, words: str) -> None:
    assert asked(*words.split())[0].model == "m"


def test_keys_come_from_flags_and_a_file_or_else_the_environment(asked: Ask, write: Any) -> None:
    file = write("# for us\nk2\n\n  k3  \n", "keys")
    variables = {"ARGOSY_API_KEY": "e1", "VLLM_API_KEY": "e2"}
    keys = asked("--api-key", "k1", "--api-key-file", file, **variables)[1].api_keys
    assert keys == ("k1", "k2", "k3")
    assert asked(**variables)[1].api_keys == ("e1",)
    assert asked(ARGOSY_API_KEY="", VLLM_API_KEY="e2")[1].api_keys == ("e2",)


def test_a_key_that_is_none_never_opens_the_door(write: Any, tmp_path: Path) -> None:
    for arguments, said in (
        (("--api-key", ""), "none of them empty"),
        (("--api-key-file", write("# nothing\n", "keys")), "holds no key"),
        (("--api-key-file", str(tmp_path / "none")), "cannot be read"),
        (("--config", write("api-key:\n", "a.yml")), "api-key has no value"),
        (("--config", write("api-key: ''\n")), "none of them empty"),
    ):
        done = run(*arguments)
        assert done.exit_code == 1 and said in done.stderr
    assert "comma" in run(ARGOSY_API_KEY="a,b").stderr


def test_the_issues_file_is_in_effect(asked: Ask, write: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "argosy")
    engine, server, more = asked("--config", write(VLLM))
    assert engine == EngineConfig(
        model="org/name", gpu_memory_utilization=0.92, max_num_batched_tokens=8192, max_num_seqs=256
    )
    assert server == ServerConfig(
        served_model_name=("llama-2-70b",), max_logprobs=5, host="0.0.0.0", port=8000
    )
    assert set(more["given"]) == {"max_num_seqs", "max_num_batched_tokens"}
    assert [r.message for r in caplog.records] == [
        "accepted without effect here: swap_space (pages are recomputed, not swapped)"
    ]


def test_four_shards_are_refused_with_the_remedy(write: Any) -> None:
    four = WITHOUT_MODEL.replace("tensor-parallel-size: 1", "tensor-parallel-size: 4")
    done = run("--config", write(four))
    assert done.exit_code == 1
    assert "tensor_parallel_size=4" in done.stderr and "set tensor_parallel_size=1" in done.stderr


def test_flags_win_over_the_file_over_the_defaults(asked: Ask, write: Any) -> None:
    file = write("model: from-file\nport: 1\nserved-model-name: [f, g]\nmax-num-seqs: 2\n")
    engine, server, _ = asked("from-flag", "--config", file, "--port", "3")
    assert (engine.model, engine.max_num_seqs) == ("from-flag", 2)
    assert (server.port, server.served_model_name) == (3, ("f", "g"))
    _, server, _ = asked("--served-model-name", "a", "--config", file)
    assert server.served_model_name == ("a",)


YAML: list[tuple[str, str, Any]] = [
    ("max_model_len: 32k", "max_model_len", 32768),
    ("max-num-seqs: 0016", "max_num_seqs", 16),
    ("revision: 1e3", "revision", "1e3"),
    ("revision: no", "revision", "no"),
    ("enable-prefix-caching: false", "enable_prefix_caching", False),
    ("no-enable-prefix-caching: true", "enable_prefix_caching", False),
    ("no-enable-prefix-caching: off", "enable_prefix_caching", True),
    ("enable-log-requests: false", "log_requests", False),
    ("disable-log-requests: true", "log_requests", False),
    ("no-enable-log-requests: true", "log_requests", False),
    ("explain: true", "explain", True),
    ("served-model-name: x", "served_model_name", ("x",)),
    ("allowed-origins: ['*']", "allowed_origins", ("*",)),
    ("limit-mm-per-prompt: {}", "max_num_seqs", EngineConfig.max_num_seqs),
    ("compilation-config: 0", "max_num_seqs", EngineConfig.max_num_seqs),
    ("", "port", 8000),
    ("# only a comment\n", "port", 8000),
]


@pytest.mark.parametrize(("text", "name", "value"), YAML)
def test_what_yaml_says(asked: Ask, write: Any, text: str, name: str, value: Any) -> None:
    engine, server, _ = asked("--config", write(text, "serve.yml"))
    assert getattr(engine, name, getattr(server, name, None)) == value


WRONG: list[tuple[str, str]] = [
    ("port: 1\nmax-num-seq: 3", ":2: unknown key 'max-num-seq'; did you mean max-num-seqs?"),
    ("zzz: 3", ":1: unknown key 'zzz'; keys are the flags"),
    ("config: other.yaml", "unknown key 'config'"),
    ("port: eight", ":1: port: 'eight'"),
    ("port: true", ":1: port: 'true'"),
    ("port:", ":1: port has no value"),
    ("port: [1, 2]", ":1: port takes one value, not a list"),
    ("host: {a: b}", ":1: host takes one value, not a mapping"),
    ("served-model-name: [[a]]", "served-model-name takes one value, not a list"),
    ("max-num-batched-tokens: 1.5", "max-num-batched-tokens: '1.5' is not a count"),
    ("enforce-eager: 1", ":1: enforce-eager: '1' is neither true nor false"),
    ('explain: "true"', ":1: explain: 'true' is neither true nor false"),
    ("request-timeout: soon", "request-timeout: 'soon'"),
    ("swap-space: much", "swap-space: 'much'"),
    ("port: 1\nport: 2", ":2: port is given twice"),
    ("max-num-seqs: 1\nmax_num_seqs: 2", ":2: max-num-seqs is given twice"),
    ("enable-log-requests: true\ndisable-log-requests: true", "is given twice"),
    ("- port", "holds no `key: value` lines"),
    ("a: [", "is not YAML"),
    ("port: 1\n---\nport: 2", "is not YAML"),
    ("port: 70000", "port=70000 must be a whole number from 0 to 65535"),
    ("load-format: pt", "load_format='pt' cannot be honoured"),
    ("compilation-config: {level: 3}", "compilation_config={'level': 3} cannot be honoured"),
    ("tool-call-parser: hermes", "tool_call_parser='hermes' cannot be honoured"),
    ("dtype: !!python/name:os.system x", "dtype='x' is unknown"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_in_yaml_is_told_in_one_line(write: Any, text: str, said: str) -> None:
    done = run("--config", write(text))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("argosy: ") and said in done.stderr


def test_the_file_itself(write: Any, tmp_path: Path) -> None:
    assert "does not end in .yaml or .yml" in run("--config", write("", "serve.json")).stderr
    assert "cannot be read" in run("--config", str(tmp_path / "none.yaml")).stderr
    (tmp_path / "odd.yaml").write_bytes(b"host: \xff\xfe")
    assert "is not YAML" in run("--config", str(tmp_path / "odd.yaml")).stderr
    twice = run("--config", "a.yaml", "--config=b.yaml")
    assert twice.exit_code == 2 and "more than once" in twice.stderr


def test_a_wrong_flag_is_wrong_usage_though_a_file_is_there(write: Any) -> None:
    done = run("--config", write("port: 1"), "--port", "x")
    assert done.exit_code == 2 and "serve.yaml" not in done.stderr
    assert run("--max-num-seq", "3").exit_code == 2


@pytest.mark.parametrize("name", WHY)
def test_without_effect_each_flag_takes_its_true_values_and_no_other(asked: Ask, name: str) -> None:
    assert name not in EngineConfig.__dataclass_fields__
    assert name not in ServerConfig.__dataclass_fields__
    [option] = [p for p in load_verb("serve").params if p.name == name]
    flag = option.opts[0]
    assert flag == f"--{name.replace('_', '-')}"
    if option.is_flag:
        words = {True: (flag,), False: (option.secondary_opts[0],)}
        values = ONLY.get(name, (True, False))
        for value, word in words.items():
            good = value in values
            assert run(*word).exit_code == 1 if not good else asked(*word)
    else:
        for value in ONLY.get(name, ("1",)):
            assert value is None or asked(flag, str(value))
        assert name not in ONLY or f"{name}=" in run(flag, "31").stderr


def test_every_argument_of_llm_is_a_flag_or_known_to_be_none() -> None:
    names = {p.name for p in load_verb("serve").params}
    names |= {"quantization", "num_threads", "disable_log_requests"}
    python_only = {"kv_pages", "keep_logits", "cache_dir"}
    assert set(typing.get_type_hints(LLMOptions)) - names == python_only
    assert set(WHY) == set(AcceptedFlags.__dataclass_fields__)
    assert not set(SERVER_NO_EFFECT) & set(NO_EFFECT_ON_CPU)


def test_help_teaches_by_groups_and_names_what_has_no_effect() -> None:
    told = " ".join(run("--help").output.split())
    for title in serve.GROUPS:
        assert f"{title}:" in told
    for word in ("--config FILE", "--dry-run", "[default: 8000]", "[default: 25.0]", "swap-space"):
        assert word in told
    shown = [p.opts[-1] for p in load_verb("serve").params if p.param_type_name == "option"]
    assert all(name in told for name in shown if name.lstrip("-").replace("-", "_") not in WHY)


def test_the_dry_run_says_where_each_value_came_from(model: Path, write: Any) -> None:
    file = write(f"{WITHOUT_MODEL}model: {model}\napi-key: [sk-a, sk-b]\nmax-model-len: 64\n")
    done = run("--config", file, "--dry-run", "--port", "9")
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert rows["port"] == ["9", "flag"]
    assert rows["max_num_seqs"] == ["256", "file"]
    assert rows["max_model_len"] == ["64", "file"]
    assert rows["api_server_count"] == ["1", "default"]
    assert rows["kv_cache_dtype"] == ["fp32", "model"]
    cores = served_machine(read_machine(), weight_bytes=0).cores
    assert rows["num_threads"] == [str(cores), "machine"]
    assert rows["api_keys"] == ["2", "keys", "file"] and "sk-" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("memory: weights ")
    assert "environment" in run(str(model), "--dry-run", ARGOSY_API_KEY="k").stdout


def test_the_dry_run_of_a_bundle_tells_its_limits_and_builds_nothing(
    tmp_path: Path, model: Path, write: Any
) -> None:
    config = write('{"max_batch_size": 3, "max_seq_len": 48}', "trtllm.json")
    bundle, cache = tmp_path / "bundle", tmp_path / "cache"
    built = CliRunner().invoke(app, ["build", str(model), "-o", str(bundle), "--config", config])
    assert built.exit_code == 0, built.output
    told = run(str(bundle), "--dry-run").stdout.split()
    assert told[told.index("max_num_seqs") + 1 :][:2] == ["3", "model"]
    assert told[told.index("max_model_len") + 1 :][:2] == ["48", "model"]
    again = run(str(bundle), "--dry-run", "--max-num-seqs", "5").stdout.split()
    assert again[again.index("max_num_seqs") + 1 :][:2] == ["5", "flag"]
    assert run(str(model), "--dry-run", ARGOSY_CACHE=str(cache)).exit_code == 0
    assert not cache.exists()


@pytest.mark.parametrize("words", ["no/where --dry-run", "--memory 1M --dry-run"])
def test_the_dry_run_fails_as_serving_would(words: str, tmp_path: Path) -> None:
    done = run(*words.split(), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)


def test_the_template_is_read_before_anything_starts(asked: Ask, write: Any) -> None:
    file = write("<<{{ messages[-1].content }}>>", "t.jinja")
    assert asked("--chat-template", file)[2]["chat_template"] == "<<{{ messages[-1].content }}>>"
    done = run("--chat-template", "no/such/file")
    assert done.exit_code == 1 and "neither Jinja text nor a readable file" in done.stderr


def test_what_serving_returns_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "serve", lambda *_, **__: 130)
    assert run().exit_code == 130
