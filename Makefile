# `make help` lists the commands. Each one sets up .venv first and skips that when it is ready.

PYTHON ?= python3
VENV   := $(or $(COURSE_VENV),.venv)
PY     := "$(VENV)/bin/python"
BUILD  := $(PY) -m authoring
# As many processes as there are cores with memory for a notebook (conftest.py), each with its share of the threads.
SHARED := -n auto --dist loadfile --no-loadscope-reorder
UNIT   := tests --ignore=tests/browser --ignore=tests/test_devices.py
NBVAL  := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg $(SHARED)
# The unit tests that read full data sets; the others are the same with the embedded data.
READERS := $(addprefix tests/,test_data.py test_metrics.py test_nb02.py test_nb05.py test_nb06.py test_nb07.py)
STATIC := tests/test_docs.py tests/test_house.py tests/test_notebooks.py tests/test_rooms.py
# The lock moves these two by hand, and together: a new PyTorch is gigabytes for everyone.
TORCH  := torch==2.14.1 torchvision==0.29.1

# A backend set outside would switch off the notebooks' inline figures.
unexport MPLBACKEND
unit nbval full test: export TQDM_DISABLE = 1

.PHONY: help setup lab test unit nbval browser grading devices full run notebooks text check badge readme student colab standalone assets seeds bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv, or bring it up to date
	@command -v $(PYTHON) >/dev/null || { echo "Set-up failed. This course needs Python 3.11 or newer and $(PYTHON)" \
		"is not installed: see https://www.python.org/downloads/" >&2; exit 1; }
	@$(PYTHON) authoring/setup.py

# Without jupytext's pairing, should a learner have set it up: what is saved must not rewrite notebooks/src.
lab: setup ## open the course in JupyterLab (LAB_ARGS="--no-browser" and the like are passed on)
	$(PY) -m jupyterlab notebooks --ServerApp.jpserver_extensions="{'jupyterlab_jupytext': False}" \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

test: setup ## all tests: the package, the files, and every notebook cell by cell
	$(PY) -m pytest $(SHARED) $(UNIT)
	$(PY) -m pytest $(NBVAL) notebooks

unit: setup ## the tests that run no notebook
	$(PY) -m pytest $(SHARED) $(UNIT)

nbval: setup ## every notebook cell by cell (NB=02 for one)
	$(PY) -m pytest $(NBVAL) $(if $(NB),notebooks/$(NB)_*.ipynb,notebooks)

browser: setup ## widgets and pages in JupyterLab and chromium
	$(PY) -m pytest tests/browser

grading: setup ## nbgrader itself on four hand-ins, in an environment of its own
	test -x build/nbgrader/bin/nbgrader || \
		{ $(PYTHON) -m venv build/nbgrader && build/nbgrader/bin/python -m pip install -q "nbgrader>=0.9.5"; }
	COURSE_NBGRADER="$(CURDIR)/build/nbgrader/bin/nbgrader" $(PY) -m pytest tests/test_nbgrader.py

devices: setup ## every notebook on a pretend accelerator, with short trainings
	$(PY) -m pytest -n auto tests/test_devices.py

full: setup ## with the full data sets: the unit tests and the notebooks that read them, what changed last first
	$(PY) -m pytest $(SHARED) $(READERS)
	$(PY) -m pytest $(NBVAL) --changed-first \
		$(patsubst notebooks/src/%.py,notebooks/%.ipynb,$(shell grep -l 'data\.images' notebooks/src/*.py))

run: setup ## execute the notebooks, HTML into build/ (NB=02 for one)
	$(BUILD) run $(NB)

notebooks: setup ## notebooks/src to executed notebooks and lessons (NB=02 for one)
	$(BUILD) build $(NB)

text: setup ## take over changed prose, keep the outputs (NB=02 for one)
	$(BUILD) text $(NB)

check: setup ## lint, format and the static tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest $(SHARED) $(STATIC)

badge: setup ## make the links point to a fork: REPO=owner/name
	@test -n "$(REPO)" || { echo 'Say which repository: make badge REPO=owner/name' >&2; exit 2; }
	$(BUILD) badge $(REPO)

readme: setup ## bring the README's generated tables up to date
	$(BUILD) readme

student: setup ## notebooks without solutions, for a class
	$(BUILD) student

colab: setup ## the notebooks as Colab runs them, in an environment of their own (NB=02 for one)
	$(PY) -m authoring.colab $(NB)

standalone: setup ## notebooks that carry the course inside, into build/standalone (NB=05 for one)
	$(PY) -m authoring.standalone $(NB)

assets: setup ## make the embedded data and the small trained weights again
	$(PY) -m authoring.assets

seeds: setup ## the notebooks on seeds 0, 1, 2, their claims into notebooks/CLAIMS.md (NB=02 for one)
	$(PY) -m authoring.seeds $(NB)

bench: setup ## our diffusion recipe beside two libraries', hours (BENCH_ARGS="--seconds 20 --only ours")
	$(PY) -m pip install --quiet -c requirements.lock -e ".[bench]"
	$(PY) -m authoring.benchmarks.diffusion $(BENCH_ARGS)

lock: setup ## resolve requirements.lock again for all systems (UPGRADE=1 for the newest releases)
	@mkdir -p build
	@printf '%s\n' $(TORCH) > build/torch.txt
	@test -x build/uv/bin/uv || { $(PY) -m venv build/uv && build/uv/bin/python -m pip install -q uv; }
	@cp requirements.lock build/requirements.lock
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --all-extras \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade) \
		--constraint build/torch.txt pyproject.toml --output-file build/requirements.lock >/dev/null
	@{ sed -n '/^#/p' requirements.lock; grep -v '^#' build/requirements.lock; } > build/requirements.new
	@mv build/requirements.new requirements.lock

clean: ## remove build/ and caches (to remove the environment: rm -r .venv)
	rm -rf build .pytest_cache .ruff_cache *.egg-info
	find . -path ./.venv -prune -o -path ./.git -prune -o \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
