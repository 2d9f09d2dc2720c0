PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock

.PHONY: help install corpus study test test-system test-thorough test-hf test-isa test-slurm \
	torture lint docs tutorials bench coverage extrapolation golden lock clean sheet bench-build \
	check-tpu

help:
	@echo "make study     install and run the over-training study (about 6 CPU-minutes)"
	@echo "make test      install and run the test suite"
	@echo "make test-system  whole studies, processes and signals, a browser, a wheel (9 CPU-minutes)"
	@echo "make test-thorough  what the suite leaves out: more parts, meshes and optimizers"
	@echo "make test-hf   exports and imports held to transformers, torch and lm_eval, on CPUs"
	@echo "make check-tpu  two steps compiled for a slice of TPUs that is not here (a minute of one core)"
	@echo "make test-isa  equality and golden tests as on older processors, with one and two threads"
	@echo "make test-slurm  launchers on a Slurm of one node, started here (as root; needs Debian's packages)"
	@echo "make torture   kills, signals, full disks and damage to a store (at most 15 minutes)"
	@echo "make sheet     every kind of figure on one picture, in colour and in grey, to look at"
	@echo "make docs      build the site into build/docs/site; dead links and warnings fail"
	@echo "make tutorials  type the tutorials from a wheel and compare what they print (5 CPU-minutes)"
	@echo "make bench     speed of training, reading, fitting and starting, as ratios of one run"
	@echo "make bench-build  1 GB of text built here and by Ray: the same hash (16 CPU-minutes)"
	@echo "make coverage  coverage of the fits' intervals on planted data (an hour of one core)"
	@echo "make extrapolation DATA=FOLDER  laws chosen and predictions beyond the data, public tables"
	@echo "make golden    rewrite the golden tables on purpose"
	@echo "make lint      ruff, as the tests' authors run it"
	@echo "make lock      resolve the newest dependencies into $(LOCK)"

$(VENV)/installed: $(LOCK) setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "espalier needs Python 3.11 or newer; give one as PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

install: $(VENV)/installed

corpus: install
	@$(BIN)/python -c "import data; print('corpus:', data.load('wheels').content_hash)"

study: corpus
	$(BIN)/espalier run --config=experiments/over_training.py:cpu

test: corpus
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Whole studies and reports, and what starts processes, kills them, opens a browser or a wheel.
test-system: corpus
	$(BIN)/python -m pytest -n 2 --dist loadfile -m system

# The cases that the suite leaves out: the same properties of more parts, meshes and optimizers.
test-thorough: corpus
	$(BIN)/python -m pytest -n 2 --dist loadfile -m thorough

# An environment of its own, which sees the packages of the first. The versions are those that the
# tests were written with; of torch, `==` also takes a build for CPUs where the index has one.
HF := .venv-hf
HF_PINS := accelerate==1.15.0 compressed-tensors==0.20.0 lm-eval==0.4.13 torch==2.13.0 \
	transformers==5.24.0 wandb==0.31.0
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

$(HF)/installed: $(VENV)/installed
	$(PYTHON) -m venv $(HF)
	@$(BIN)/python $(PACKAGES) > "$$($(HF)/bin/python $(PACKAGES))/first.pth"
	$(HF)/bin/python -m pip install --quiet --disable-pip-version-check $(HF_PINS)
	@touch $@

test-hf: $(HF)/installed
	$(HF)/bin/python -m pytest tests/interop -n 2 --dist loadfile

# An environment of its own, as for test-hf. What is compiled is for TPUs that need not be here.
# Skipped, with the reason, where libtpu cannot be installed: it is for Linux on x86-64.
TPU := .venv-tpu
TPU_PIN := libtpu==0.0.42.1

check-tpu: $(VENV)/installed
	@test -d $(TPU) || $(PYTHON) -m venv $(TPU)
	@$(BIN)/python $(PACKAGES) > "$$($(TPU)/bin/python $(PACKAGES))/first.pth"
	@if $(TPU)/bin/python -m pip install --quiet --disable-pip-version-check $(TPU_PIN); then \
	  $(TPU)/bin/python -m pytest tests/scaling/chips/test_absent.py -n 0 -rs; \
	else echo "check-tpu is skipped: $(TPU_PIN) cannot be installed here"; fi

# Sums in other orders and of other widths, as other processors take them; one thread and two.
test-isa: corpus
	@for isa in AVX2 SSE4_2; do for threads in false true; do \
	  echo "$$isa, more than one thread: $$threads"; \
	  XLA_FLAGS="--xla_cpu_max_isa=$$isa --xla_cpu_multi_thread_eigen=$$threads $$XLA_FLAGS" \
	    $(BIN)/python -m pytest -n 1 -m equality || exit 1; \
	done; done

# Skipped, with the reason, where slurmctld or slurmd is not installed.
test-slurm: corpus
	$(BIN)/python -m pytest -n 0 -m slow -rs tests/experiments/command/launchers/test_cluster.py

# Real signals to the real command; full disks are small file systems, where those are allowed.
torture: install
	$(BIN)/python -m tests.torture

# PDF files are drawn and their fonts listed by Debian's poppler-utils, where that is installed.
sheet: install
	$(BIN)/python -m tests.sheet

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[docs]'
	@touch $@

docs: $(VENV)/docs
	$(BIN)/python docs/build.py

# From a new environment of the wheel and its dependencies alone, without this checkout; of some pages
# with PAGES=tutorials/csv.md. What needs a cluster is typed on a Slurm of one node, where that is.
tutorials: corpus
	rm -rf build/lib build/wheel $(VENV)-wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel .
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  -c $(LOCK) "$$(echo build/wheel/espalier-*.whl)[slurm]"
	$(BIN)/python -m tests.tutorials --bin=$(VENV)-wheel/bin $(PAGES)

bench: corpus
	$(BIN)/python -m experiments.bench.speed

bench-build: install
	$(BIN)/python -m experiments.bench.building

coverage: install
	$(BIN)/python -m experiments.bench.coverage

extrapolation: install
	@test -n "$(DATA)" || { echo "give the folder of the public tables as DATA=..."; exit 2; }
	$(BIN)/python -m experiments.bench.extrapolation --data="$(DATA)"

golden: corpus
	$(BIN)/python -m tests.golden

lock:
	$(BIN)/python -m pip install --quiet uv
	@{ echo '# Exact versions for every supported Python; written by `make lock`.'; \
	   $(BIN)/uv pip compile setup.cfg --extra test --extra docs --universal --python-version 3.11 \
	     --no-header --no-annotate; } > $(LOCK).new && mv $(LOCK).new $(LOCK)

clean:
	rm -rf $(VENV) $(VENV)-wheel $(HF) $(TPU) build *.egg-info
