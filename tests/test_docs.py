"""The documentation tells the truth where a machine can see it."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from argosy.cli.config_file import read_config_file
from argosy.cli.environment import read_environment
from argosy.cli.main import VERBS, load_verb
from argosy.client.stories import Explanation
from argosy.config import ServerConfig
from argosy.serve import series
from argosy.serve.auth import OPEN_PATHS
from argosy.serve.errors import TYPES
from argosy.serve.probes import Engine, Health

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:src|native|tests|docs|bench|training|tools)/[\w./-]*\w/?)`")
NAMED = re.compile(r"`((?:src|native|tests)/[\w./-]+)::(\w+(?:\.\w+)*)`")
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    targets = [t for t in LINK.findall(text) if "://" not in t and not t.startswith("mailto:")]
    return [t for t in targets if not (folder / t).exists()]


def missing_paths(text: str) -> list[str]:
    """Files and folders of the repository that a page names and that do not exist."""
    return [p for p in PATH.findall(text) if not (ROOT / p).exists()]


def missing_names(text: str) -> list[str]:
    """`file::name` pairs whose file does not define the name."""
    bad = []
    for file, name in NAMED.findall(text):
        path, last = ROOT / file, name.rpartition(".")[2]
        if not path.is_file() or not re.search(rf"\b{last}\b\s*[(:={{]", path.read_text()):
            bad.append(f"{file}::{name}")
    return bad


def commands(text: str) -> list[list[str]]:
    """The `make` and `argosy` command lines of a page's shell blocks.

    In a console block only lines after a prompt are commands, the others are what came back.
    """
    lines: list[str] = []
    for kind, block in BLOCK.findall(text):
        whole = block.replace("\\\n", " ").splitlines()
        lines += whole if kind == "sh" else [x[2:] for x in whole if x.startswith("$ ")]
    found = []
    for line in lines:
        for part in re.split(r"\||&&|;", line):
            words = shlex.split(part, comments=True)
            if words and words[0] in ("make", "argosy"):
                found.append(words)
    return found


def unknown_command(words: list[str]) -> str | None:
    """What of a command line does not exist: a make target, a verb, a flag."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((w for w in words[1:] if "=" not in w and w not in targets), None)
    if len(words) == 1 or words[1] in ("--version", "--help"):
        return None
    verb = " ".join(words[1:3])
    if verb not in VERBS:
        verb = words[1]
    if verb not in VERBS:
        return verb
    known = {o for p in load_verb(verb).params for o in [*p.opts, *p.secondary_opts]}
    known |= {"--help"}
    flags = [w.partition("=")[0] for w in words[2:] if w.startswith("-") and w != "-"]
    return next((flag for flag in flags if flag not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_page(page: Path) -> None:
    text = page.read_text()
    assert not broken_links(text, page.parent)
    assert not missing_paths(text)
    assert not missing_names(text)
    for words in commands(text):
        assert unknown_command(words) is None, f"{' '.join(words)}: no such thing"


def test_the_generated_reference_is_fresh() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert not generator["stale_pages"]()


def yaml_blocks(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_servers_file_is_one_it_takes(tmp_path: Path) -> None:
    [block] = yaml_blocks("docs/howto/serve.md")
    (tmp_path / "serve.yaml").write_text(block)
    settings = read_config_file(tmp_path / "serve.yaml", load_verb("serve"))
    assert settings["served_model_name"] == ["llama", "gpt-4o-mini"]
    assert settings["max_model_len"] == "32k"


def test_the_manifest_is_true() -> None:
    [block] = yaml_blocks("docs/howto/deploy-on-kubernetes.md")
    deployment, service = yaml.safe_load_all(block)
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert unknown_command(["argosy", "serve", *container["args"]]) is None
    [shutdown] = [a.partition("=")[2] for a in container["args"] if "shutdown-timeout" in a]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= int(command[-1]) + int(shutdown) + 5
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["ports"][0]["containerPort"] == ServerConfig.port
    assert read_environment({container["env"][0]["name"]: "key"}).api_key == "key"
    assert service["spec"]["selector"] == pod_labels(deployment)


def pod_labels(deployment: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    return labels


def test_the_metrics_people_are_told_to_ask_for_exist() -> None:
    known = {s.name + ("_total" if s.kind == "counter" else "") for s in series.SERIES}
    known |= {"http_requests_total"} | {h.name for h in series.HISTOGRAMS}
    text = (ROOT / "docs/howto/read-the-metrics.md").read_text()
    text += (ROOT / "docs/howto/deploy-on-kubernetes.md").read_text()
    named = set(re.findall(r"\b(?:vllm:|argosy_|http_|gpu_|request_queue)\w+", text))
    assert len(named) > 12
    assert {re.sub(r"_bucket$", "", name) for name in named} <= known


def test_every_status_and_path_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/http.md").read_text()
    assert not [path for path in OPEN_PATHS if f"{path}`" not in text]
    told = {int(row) for row in re.findall(r"^\| (\d{3}) \|", text, re.MULTILINE)}
    assert told == set(TYPES) - {403, 415, 499}
    assert all(f"`{TYPES[status]}`" in text for status in told)
    blocks = [json.loads(b) for b in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert [list(block) for block in blocks] == [
        list(Health.__struct_fields__),
        [field.name for field in fields(Explanation)],
    ]
    assert list(blocks[0]["engine"]) == list(Engine.__struct_fields__)


def test_the_readme_says_how_to_run_and_test() -> None:
    words = commands((ROOT / "README.md").read_text())
    assert ["make", "run"] in words and ["make", "test"] in words


def test_the_architecture_page_is_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 150


def test_the_life_of_a_request_names_a_file_at_every_step() -> None:
    text = (ROOT / "docs/explanation/life-of-a-request.md").read_text()
    steps = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(steps) >= 10
    assert all(NAMED.search(step) for step in steps)


def test_the_checks_see_what_they_look_for() -> None:
    assert broken_links("[a](nowhere.md) [b](README.md#x) [c](https://example.org)", ROOT) == [
        "nowhere.md"
    ]
    assert missing_paths("`src/argosy/errors.py` `src/argosy/none.py`") == ["src/argosy/none.py"]
    assert missing_names("`src/argosy/types.py::Batch` `src/argosy/types.py::Batches`") == [
        "src/argosy/types.py::Batches"
    ]
    assert unknown_command(["make", "lunch"]) == "lunch"
    assert unknown_command(["argosy", "chat", "--no-such-flag"]) == "--no-such-flag"
    assert unknown_command(["argosy", "fly"]) == "fly"
    assert unknown_command(["argosy", "bench", "serve", "URL", "--users", "3"]) is None
    assert unknown_command(["argosy", "bench", "serve", "--repeat", "3"]) == "--repeat"
