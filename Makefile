# Two commands matter: `make quickstart` and `make test`. Both set up .venv first, and do nothing twice.
VENV := .venv
PY := $(VENV)/bin/python
FACTORY := $(VENV)/bin/factory
INSTALLED := $(VENV)/.installed
# Without an NVIDIA GPU on Linux, torch's default build brings gigabytes of CUDA: its CPU index is asked first.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
NOT_LOCKED := ^(nvidia-|cuda-|triton|llm==|sqlite-|torch==|sentence-transformers|scikit-learn|threadpoolctl|narwhals)

# The browser tests leave pictures of what they saw here.
export ADAPTER_FACTORY_SCREENSHOTS ?= $(CURDIR)/build/screenshots

.PHONY: quickstart test test-slow check bench ablations docs lock clean
.DELETE_ON_ERROR:

quickstart: $(INSTALLED)
	$(FACTORY) run recipes/quickstart.yaml

# A process for each core, up to four; a file's tests stay in one of them, as they share what they have made.
test: $(INSTALLED)
	$(PY) -m pytest -m "not slow and not alone" -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
	$(PY) -m pytest -m "alone and not slow"

test-slow: $(INSTALLED)
	$(PY) -m pytest -m slow --timeout=1800

check: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) tests/links.py

# Over an hour; the comparison with TRL goes on where it was interrupted.
bench: quickstart
	$(PY) bench/run.py
	$(PY) bench/serve.py
	$(PY) bench/train.py --resume

ablations: $(INSTALLED)
	$(PY) bench/ablations.py --resume

docs: $(INSTALLED)
	$(PY) docs/generate.py
	$(PY) notebooks/build.py

lock: $(INSTALLED)
	$(PY) -m pip install -q uv
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 --all-extras --no-annotate --no-header -q pyproject.toml \
	  | grep -Ev '$(NOT_LOCKED)' > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build

$(INSTALLED): requirements.lock pyproject.toml tools/install.sh
	@sh tools/install.sh "$(VENV)" "$(TORCH_CPU_INDEX)"
	@touch $@
