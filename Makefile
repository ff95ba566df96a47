# make run | test | oracle | faults | fuzz | bench | bench-serving | mutants | lint | docs | clean
#
# Everything is installed into .venv (the oracle's torch into .oracle), never into the system.
# ARGOSY_PYTHON=python3.12 make run     chooses the interpreter
# make run ARGS="MODEL --stats"         arguments of `argosy chat`
# make bench PEERS="llamacpp openvino"  ARGS="--model 1b --weights bf16": engines beside each other
# make bench-serving ARGS="--part slo --servers argosy,llamacpp,vllm": servers
# make test PYTEST_ARGS="-k scheduler"  arguments of pytest

.DELETE_ON_ERROR:
.PHONY: run test oracle faults fuzz bench bench-serving mutants lint docs clean

BIN := .venv/bin
SOURCES := CMakeLists.txt pyproject.toml $(shell find src native -type f ! -path '*/__pycache__/*')
WHEEL = $$(ls build/wheels/argosy-*.whl)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

run: .venv/.installed
	@$(BIN)/argosy chat $(ARGS)

test: .venv/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

oracle: .oracle/.installed
	.oracle/bin/python -m pytest -m oracle $(PYTEST_ARGS)

# ARGOSY_KILLS=n: times the engine is killed; 50 by default.
faults: .venv/.test
	$(BIN)/python -m pytest -m faults $(PYTEST_ARGS)

# ARGOSY_FUZZ_REQUESTS=n: malformed requests of each kind; 20,000 by default.
fuzz: .venv/.fuzz
	$(BIN)/python -m pytest -m fuzz -s $(PYTEST_ARGS)

PEERS ?= llamacpp openvino vllm
bench: .venv/.test $(PEERS:%=.peers/%/.installed)
	$(BIN)/python bench/engine.py --work build/bench \
		$(foreach peer,$(PEERS),--$(peer) $(CURDIR)/.peers/$(peer)/bin/python) $(ARGS)

bench-serving: .venv/.test $(addprefix .peers/,llamacpp/.installed llama-server/.installed vllm/.installed)
	$(BIN)/python bench/serving.py --work build/bench \
		--llama-server $(CURDIR)/.peers/llama-server/build/bin/llama-server \
		--llamacpp $(CURDIR)/.peers/llamacpp/bin/python --vllm $(CURDIR)/.peers/vllm/bin/python $(ARGS)

mutants: .venv/.test
	$(BIN)/python tools/mutants

lint: .venv/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	find native -name '*.cc' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy --strict src

docs: .venv/.test
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest tests/test_docs.py

clean:
	rm -rf .venv .oracle .peers build dist

# One wheel serves every environment. Its build tools stay in .venv, so that CMake finds the same
# paths again and compiles only what changed.
.venv/.tools: tools/choose-python
	@python=$$(tools/choose-python) && echo "creating .venv with $$python" && "$$python" -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet "scikit-build-core>=0.11" "nanobind>=2.4" cmake ninja
	@touch $@

build/.wheel: .venv/.tools $(SOURCES)
	@echo "building Argosy; this takes a minute or two the first time"
	@rm -rf build/wheels
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation \
		-C cmake.define.ARGOSY_WERROR=$(if $(CI),ON,OFF) -w build/wheels .
	@touch $@

.venv/.installed: build/.wheel
	@$(BIN)/python -m pip uninstall --quiet --yes argosy 2>/dev/null
	@$(BIN)/python -m pip install --quiet "$(WHEEL)"
	@touch $@

.venv/.test: .venv/.installed
	@$(BIN)/python -m pip install --quiet "$(WHEEL)[test]"
	@touch $@

.venv/.fuzz: .venv/.test
	@$(BIN)/python -m pip install --quiet "$(WHEEL)[fuzz]"
	@touch $@

.venv/.lint: .venv/.installed
	@$(BIN)/python -m pip install --quiet "$(WHEEL)[lint]"
	@touch $@

.peers/%/.installed: bench/peers/install | .venv/.tools
	@echo "making the environment of $*; this takes some minutes"
	@PYTHON=$(BIN)/python bench/peers/install $* $(CURDIR)/.peers/$* > $(CURDIR)/build/$*.log
	@touch $@

.oracle/.installed: build/.wheel
	@test -x .oracle/bin/python || $(BIN)/python -m venv .oracle
	@.oracle/bin/python -m pip install --quiet torch==2.13.0
	@.oracle/bin/python -m pip uninstall --quiet --yes argosy 2>/dev/null
	@.oracle/bin/python -m pip install --quiet "$(WHEEL)[test,oracle]"
	@touch $@
