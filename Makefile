# make demo · test · lab · app · bench · kernels · gpu.   DATA=folder uses other data than the sample (see README.md).
PYTHON ?= python3
DATA ?= $(HEBREWGPT_DATA)
TORCH ?=# another version than the pinned one, as 2.11.0
ARGS ?=# more options for the command of a target, as ARGS="-p preset tiny"
BIN := .venv/bin
READY := .venv/ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
PINS := $(if $(TORCH),.venv/constraints.txt,constraints.txt)
CPU_TORCH = $(shell [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null && echo --extra-index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 5)
export GRADIO_ANALYTICS_ENABLED = False
export HF_HUB_OFFLINE = 1

.PHONY: demo test check lab app bench llama bench-llama kernels carry gpu readme clean
.DELETE_ON_ERROR:

# The environment: torch first and pinned. On Linux the plain index gives the build for CUDA (5.8 GB on disk against 2.1),
# so without a GPU PyTorch's index of CPU builds is asked too: 2.13.0+cpu ranks above 2.13.0. Where it cannot be reached, pip goes on without.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	grep -v -e '^torch==' -e '^setuptools==' constraints.txt > .venv/constraints.txt
	echo "torch==$(TORCH)" >> .venv/constraints.txt
	$(PIP) $(CPU_TORCH) -c $(PINS) torch
	$(PIP) -c $(PINS) -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m hebrewgpt_nb.jobs $(if $(DATA),--chain jobs/demo-data.yaml --run runs/demo-data --data $(DATA),--chain jobs/demo.yaml --run runs/demo) $(ARGS)

# Notebooks run in parallel, each on one thread, and so do the tests: the jobs, which take as long as all others, beside them.
PYTEST := OMP_NUM_THREADS=1 HEBREWGPT_QUIET=1 $(BIN)/python -m pytest -q
JOB_TESTS := tests/test_jobs.py tests/test_pipeline.py
test: $(READY) check
	rm -rf runs/nb # the small runs of the notebooks: what is tested is made anew
	OMP_NUM_THREADS=1 HEBREWGPT_QUIET=1 $(BIN)/nbdev_test --n_workers 2 --do_print
	@$(PYTEST) $(JOB_TESTS) > .venv/jobs.log 2>&1 & jobs=$$!; trap "kill $$jobs" INT TERM; \
	$(PYTEST) $(JOB_TESTS:%=--ignore=%); rest=$$?; wait $$jobs; done=$$?; cat .venv/jobs.log; exit $$((rest + done))

# The library and README.md are in step with the notebooks, and the notebooks are clean.
check: $(READY)
	$(BIN)/python tests/in_step.py

readme: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/in_step.py --write

# Containers on GPU machines run as root, which JupyterLab refuses unless it is told.
lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

app: $(READY)
	$(BIN)/python apps/app.py $(ARGS)

# Side by side with transformers, in about 25 minutes on two cores; what was measured already is kept until `rm -rf runs/bench`.
bench: RUN ?= runs/bench
bench: $(READY)
	mkdir -p $(RUN)
	$(BIN)/papermill nbs/09_bench.ipynb $(RUN)/09_bench.ipynb -f jobs/bench.yaml -p run $(RUN) --kernel python3 --no-progress-bar $(ARGS)
	cat $(RUN)/report.md

# llama.cpp, which comes prebuilt for Node 20 or later (85 MB, in build/llama): for nbs/release/1_llamacpp.ipynb, its tests and bench-llama.
NODE_LLAMA := 3.22.1
PLATFORM := node -p '({linux: "linux", darwin: "mac", win32: "win"})[process.platform] + "-" + process.arch + (process.platform + process.arch == "darwinarm64" ? "-metal" : "")'
NPM := npm install --prefix build/llama --silent --no-audit --no-fund --ignore-scripts --omit=optional
llama: build/llama/ready
build/llama/ready: Makefile
	@command -v npm >/dev/null || { echo "llama: Node 20 or later with npm is needed, see https://nodejs.org"; exit 2; }
	$(NPM) node-llama-cpp@$(NODE_LLAMA) @node-llama-cpp/$$($(PLATFORM))@$(NODE_LLAMA)
	touch $@

# The dense twin against it, in about five minutes on two cores.
bench-llama: $(READY) llama
	$(BIN)/python jobs/bench_llama.py $(ARGS)

# A GPU's kernels without a GPU: their Python parts, in build/kernels (200 MB to load), for tests/test_kernels.py. Nothing is compiled.
KERNELS := triton==3.7.1 mamba-ssm==2.3.2.post1 causal-conv1d==1.7.0 einops==0.8.2
kernels: build/kernels/ready
build/kernels/ready: Makefile $(READY)
	rm -rf build/kernels
	MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE \
	  $(PIP) --no-deps --no-build-isolation --target build/kernels $(KERNELS)
	touch $@

# What a GPU machine without a network may lack beside PyTorch and transformers: wheels for its Python, in build/carry (10 MB), for jobs/gpu.py.
CARRY_PYTHON ?= 3.12
CARRY := ftfy==6.3.1 wcwidth==0.9.4 rapidfuzz==3.14.6 zstandard==0.25.0
carry: $(READY)
	rm -rf build/carry
	$(BIN)/pip download --quiet --no-deps --dest build/carry/packages --only-binary :all: \
	  --python-version $(CARRY_PYTHON) --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 $(CARRY)
	MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE \
	  $(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/carry/kernels $(filter mamba-ssm% einops%,$(KERNELS))

# On a GPU machine: no environment is made, any Python with torch will do. MINUTES=budget, and what was reached is not repeated.
gpu:
	$(PYTHON) -m hebrewgpt_nb.studies.gpu --minutes $(or $(MINUTES),19) $(ARGS)

clean:
	rm -rf .venv runs build dist
