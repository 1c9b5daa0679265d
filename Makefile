# make run                  the whole pipeline on the embedded model: no network but for the packages
# make run MODEL=gpt2       the paper's own setting: Wikipedia, a model from the Hugging Face hub
# make test                 the tests, offline
# make lint                 ruff, check and format

PYTHON ?= python3
PY := .venv/bin/python
MODEL ?=

ifeq ($(MODEL),)
GPT2 := --model models/gpt2-docstrings --dataset docstrings
SENTENCES := $(GPT2) --source docstrings
else
GPT2 := --model $(MODEL)
SENTENCES := $(GPT2)
endif

.PHONY: run test lint
.DELETE_ON_ERROR:

run: .venv/installed
	$(PY) get_wikipedia_sentences.py $(SENTENCES)
	$(PY) add_tokenization.py $(GPT2)
	$(PY) add_linreg.py $(GPT2)
	$(PY) add_plot_r2.py $(GPT2)
	$(PY) add_linreg_submodules.py $(GPT2)
	$(PY) add_results.py $(GPT2)
	$(PY) plot_results.py $(GPT2)

test: .venv/installed
	HF_HUB_OFFLINE=1 $(PY) -m pytest -q

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@
