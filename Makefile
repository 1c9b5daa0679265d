# make help                         show these lines
# make run                          both pipelines on the embedded models; only pip needs the network
# make run MODEL=gpt2               the paper's setting: Wikipedia, a model from the Hugging Face hub
# make run MODEL=bert-base-uncased  the same for a masked model
# make run MODEL=name FAMILY=bert   a model that is not downloaded yet and not listed in config.py: gpt2 or bert
# make run DATASET=news SOURCE=f    your own text: parquet, jsonl, or one sentence per line
# make run ... FORCE=1              remake files that exist already
# make test                         run the tests, offline, on two cores
# make test-kill                    kill every stage many times and check that nothing is lost
# make bench                        time and memory of every stage, against a direct implementation
# make page-check                   open the pages of plot_results.py in a headless Chromium (installed if missing)
# make tables                       write the tables of README.md and docs/ from the numbers in docs/results/
# make lint                         run ruff check and ruff format

PYTHON ?= python3
PY := .venv/bin/python

# Refuse a variable that is not known on the command line, such as MODLE=gpt2.
KNOWN := PYTHON MODEL FAMILY DATASET SOURCE FORCE
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
ifneq ($(filter-out $(KNOWN),$(given)),)
$(error unknown $(filter-out $(KNOWN),$(given)): use $(KNOWN), in capitals; make help shows how)
endif
START := $(shell date +%s)
MODEL ?=
DATASET ?=
SOURCE ?=
FORCE ?=

# Quote one word for the shell, with any blanks and quotes in it.
quoted = '$(subst ','\'',$(1))'

ifeq ($(MODEL)$(DATASET)$(SOURCE),)
DATASET := docstrings
SOURCE := docstrings
endif
ifeq ($(DATASET)$(SOURCE),docstrings)
SOURCE := docstrings
endif
ifneq ($(SOURCE),)
ifeq ($(DATASET),)
$(error SOURCE=$(SOURCE) needs a name for its files: add DATASET=news or the like)
endif
endif
ifneq ($(MODEL),)
FAMILY ?= $(shell $(PYTHON) config.py --family --model $(call quoted,$(MODEL)))
FAMILY := $(FAMILY)
ifeq ($(FAMILY),)
$(error the line above says why)
endif
endif
ifneq ($(filter-out gpt2 bert,$(FAMILY)),)
$(error FAMILY is $(FAMILY): use FAMILY=gpt2 for a causal model, or FAMILY=bert for a masked model)
endif
STAGES := $(or $(FAMILY),gpt2 bert)
ON := $(if $(DATASET),--dataset $(call quoted,$(DATASET)))
AGAIN := $(if $(FORCE),--force)
gpt2_files := --model $(call quoted,$(or $(MODEL),models/gpt2-docstrings)) $(ON)
bert_files := --model $(call quoted,$(or $(MODEL),models/bert-docstrings)) $(ON)
SENTENCES := $(ON) $(AGAIN) $(if $(SOURCE),--source $(call quoted,$(SOURCE)))

# The scripts for causal or masked models, in order, from the table of stages, without the one for the sentences.
scripts_for = $(filter-out get_wikipedia_sentences.py,$(shell $(PYTHON) -m shortcut.pipeline.stages $(1)))
define scripts
$(foreach script,$(scripts_for),$(PY) $(script) $(2)
	)
endef

.PHONY: run sentences gpt2 bert test test-kill bench page-check tables lint
.NOTPARALLEL:

.PHONY: help
help:
	@sed -n 's/^# make/make/p' Makefile

run: $(STAGES)
	@echo "all stages finished in $$(($$(date +%s) - $(START))) s"
	@$(foreach family,$(STAGES),$(PY) config.py --page $($(family)_files);)

sentences: .venv/installed
	$(PY) get_wikipedia_sentences.py $(SENTENCES)

gpt2: sentences
	$(call scripts,causal,$(gpt2_files) $(AGAIN))

bert: sentences
	$(call scripts,masked,$(bert_files) $(AGAIN))

test: .venv/installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

test-kill: .venv/installed
	$(PY) tests/tools/kill.py

bench: .venv/installed
	$(PY) tests/tools/bench.py

page-check: .venv/installed
	command -v chromium >/dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; }
	$(PY) tests/tools/check_page.py $(wildcard experiment/*/*_report.html)

tables: .venv/installed
	$(PY) tests/tools/tables.py

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff check --preview --select PLW1514 .
	$(PY) -m ruff format --check .

.venv/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	touch $@
