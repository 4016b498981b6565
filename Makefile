# make demo · test · lab · app · bench · gpu.   DATA=folder uses other data than the sample (see README.md).
PYTHON ?= python3
DATA ?= $(HEBREWGPT_DATA)
BIN := .venv/bin
READY := .venv/ready
export GRADIO_ANALYTICS_ENABLED = False
export HF_HUB_OFFLINE = 1

.PHONY: demo test check lab app bench bench-llama gpu readme clean
.DELETE_ON_ERROR:

# The environment: torch first and pinned, because an unpinned one brings gigabytes of another build.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m hebrewgpt_nb.jobs $(if $(DATA),--chain jobs/demo-data.yaml --run runs/demo-data --data $(DATA),--chain jobs/demo.yaml --run runs/demo)

# Notebooks run in parallel, each on one thread, and so do the tests.
test: $(READY) check
	rm -rf runs/nb # the small runs of the notebooks: what is tested is made anew
	OMP_NUM_THREADS=1 HEBREWGPT_QUIET=1 $(BIN)/nbdev_test --n_workers 2 --do_print
	OMP_NUM_THREADS=1 HEBREWGPT_QUIET=1 $(BIN)/python -m pytest -q

# The library and README.md are in step with the notebooks, and the notebooks are clean.
check: $(READY)
	$(BIN)/python tests/in_step.py

readme: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/in_step.py --write

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=nbs

app: $(READY)
	$(BIN)/python apps/app.py

# Side by side with transformers, in about 25 minutes on two cores; what was measured already is kept until `rm -rf runs/bench`.
bench: $(READY)
	mkdir -p runs/bench
	$(BIN)/papermill nbs/09_bench.ipynb runs/bench/09_bench.ipynb -f jobs/bench.yaml --cwd . --kernel python3 --no-progress-bar
	cat runs/bench/report.md

# The dense twin against llama.cpp, which is compiled first: many minutes, a C++ compiler.
bench-llama: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/llama llama-cpp-python gguf diskcache
	PYTHONPATH=build/llama $(BIN)/python jobs/bench_llama.py

# On a GPU machine: no environment is made, any Python with torch will do. MINUTES=budget, and what was reached is not repeated.
gpu:
	$(PYTHON) -m hebrewgpt_nb.studies.gpu --minutes $(or $(MINUTES),19)

clean:
	rm -rf .venv runs build dist
