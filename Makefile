# Everything runs in .venv, which `install` makes; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?= runs/quickstart

export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install quickstart test quick cluster image soak soak-long mutants oracles gpu gpu-wheels docs lint clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"evomerge needs Python 3.11 or newer; $(PYTHON) is %d.%d: make $(MAKECMDGOALS) PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

quickstart: install
	$(BIN)/evomerge run experiments/quickstart/campaign.yaml --dir $(RUN)

# Four processes for two cores: what some wait for (kills, time-outs, other processes that leave), the others use.
test: install
	$(BIN)/python -m pytest -n 4 --durations=10

# What to run between edits: all but the slow tests.
quick: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

# A SLURM of its own on this machine (Debian's slurm-wlm and munge; skipped with a word without them), minutes long.
cluster: install
	EVOMERGE_CLUSTER=1 $(BIN)/python -m pytest -rs tests/cluster

# An image for Kubernetes; see the Dockerfile.
IMAGE ?= evomerge

image:
	docker build --tag $(IMAGE) .

# The faults of tests/faults with larger counts; goes on where it was stopped.
SOAK ?= runs/soak

soak: install
	$(BIN)/python -m tests.faults.soak --tier T1 --dir $(SOAK)

soak-long: install
	$(BIN)/python -m tests.faults.soak --tier T2 --dir $(SOAK)

# Small faults put into a copy of the code one by one; what was run on the same code and tests is not run again.
mutants: install
	$(BIN)/python -m tests.mutants

# The real mergekit, and the transformers that most servers run, need environments of their own; `make test`
# never touches them.
ORACLES := .venv-oracles
ORACLES4 := .venv-oracles4

$(ORACLES)/.installed: tests/oracles/requirements.txt
$(ORACLES4)/.installed: tests/oracles/requirements-transformers4.txt
$(ORACLES)/.installed $(ORACLES4)/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

oracles: install $(ORACLES)/.installed $(ORACLES4)/.installed
	$(BIN)/python -m tests.oracles.both_lines $(ORACLES4)/bin/python
	$(BIN)/python -m tests.oracles.compare $(ORACLES)/bin/python

# What is promised on a GPU, measured in GPU_MINUTES; without one a tiny version on the CPU (docs/gpu.md).
GPU ?= runs/gpu
GPU_MINUTES ?= 8

gpu: install
	$(BIN)/python -m benchmarks.gpu --out $(GPU) --minutes $(GPU_MINUTES)
	$(BIN)/python -m pytest -m gpu $$(grep -rl mark.gpu tests --include='test_*.py')

# Wheels of what a bare machine with a GPU lacks, for its Python 3.12; one here (PYTHON312) installs and imports them.
WHEELS := .wheels
PYTHON312 ?= python3.12

gpu-wheels: install
	rm -rf $(WHEELS)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		-c constraints.txt -r benchmarks/gpu/wheels.txt -d $(WHEELS)
	@test $$(du -sm $(WHEELS) | cut -f1) -lt 60 || { echo "$(WHEELS) is larger than 60 MiB"; exit 1; }
	@du -sh $(WHEELS)
	EVOMERGE_WHEELS=$(WHEELS) PYTHON312=$(PYTHON312) $(BIN)/python -m pytest -rs tests/test_gpu_wheels.py

# The documentation site, in site/, offline and without a warning; what the code says of itself is made first.
docs: install
	$(BIN)/python -m docsite
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(ORACLES) $(ORACLES4) runs exports site
