# make run                          both pipelines on the embedded models: no network but for the packages
# make run MODEL=gpt2               the paper's own setting: Wikipedia, a model from the Hugging Face hub
# make run MODEL=bert-base-uncased  likewise
# make run MODEL=folder FAMILY=bert a masked model whose name does not say so
# make run DATASET=news SOURCE=f    likewise on text of your own: parquet, jsonl, or one sentence a line
# make run ... FORCE=1              make anew what is there already
# make test                         the tests, offline, on two cores
# make test-kill                    kill every stage many times: nothing is lost
# make bench                        what every stage takes, against the direct way
# make page-check                   open the pages of plot_results.py in a headless Chromium (installed if missing)
# make lint                         ruff, check and format

PYTHON ?= python3
PY := .venv/bin/python
MODEL ?=
DATASET ?=
SOURCE ?=
FORCE ?=
FAMILY ?= $(if $(findstring bert,$(MODEL)),bert,gpt2)

ifeq ($(MODEL)$(DATASET)$(SOURCE),)
DATASET := docstrings
SOURCE := docstrings
endif
ifneq ($(SOURCE),)
ifeq ($(DATASET),)
$(error SOURCE=$(SOURCE) needs a name for its files: add DATASET=news or the like)
endif
endif
STAGES := $(if $(MODEL),$(FAMILY),gpt2 bert)
ON := $(if $(DATASET),--dataset $(DATASET)) $(if $(FORCE),--force)
GPT2 := --model $(or $(MODEL),models/gpt2-docstrings) $(ON)
BERT := --model $(or $(MODEL),models/bert-docstrings) $(ON)
REPORT_gpt2 := experiment/$(notdir $(or $(MODEL),gpt2-docstrings))/$(or $(DATASET),wikipedia)_report.html
REPORT_bert := experiment/$(notdir $(or $(MODEL),bert-docstrings))_mask/$(or $(DATASET),wikipedia)_report.html
SENTENCES := $(ON) $(if $(SOURCE),--source $(SOURCE))

# The scripts of a kind of model in their order, from the table that has it; the first makes the sentences.
of_kind = $(filter-out get_wikipedia_sentences.py,$(shell $(PYTHON) -m shortcut.run.stages $(1)))
define scripts
$(foreach script,$(of_kind),$(PY) $(script) $(2)
	)
endef

.PHONY: run sentences gpt2 bert test test-kill bench page-check lint
.NOTPARALLEL:

run: $(STAGES)
	@echo "done: open $(foreach stage,$(STAGES),$(REPORT_$(stage)))"

sentences: .venv/installed
	$(PY) get_wikipedia_sentences.py $(SENTENCES)

gpt2: sentences
	$(call scripts,causal,$(GPT2))

bert: sentences
	$(call scripts,masked,$(BERT))

test: .venv/installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

test-kill: .venv/installed
	$(PY) tests/tools/kill.py

bench: .venv/installed
	$(PY) tests/tools/bench.py

page-check: .venv/installed
	command -v chromium >/dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; }
	$(PY) tests/tools/check_page.py $(wildcard experiment/*/*_report.html)

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@
