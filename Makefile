# One environment in .venv, installed once with the tested versions; again when they or pyproject.toml change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Taken as it is typed: `value` keeps a $ in the prompt from being read by make, the environment from the shell.
ifneq ($(origin PROMPT),undefined)
override PROMPT := $(value PROMPT)
else
PROMPT := How do I assemble a blue stool with three legs?
endif
SEED ?= 0
PORT ?= 7860
export PROMPT SEED PORT

.PHONY: help guide demo test lint eval bundle clean
help:
	@echo 'make guide PROMPT="How do I assemble a blue stool with three legs?" [SEED=0]   writes out/.../guide.html'
	@echo 'make demo    a chat in the browser, on this machine alone [PORT=7860]'
	@echo 'make test    lint, types and tests'
	@echo 'make eval    figures on held-out products and a page of pictures, in out/eval'
	@echo 'make bundle  trains the model in vlm/bundle from nothing [GPU=1 MINUTES=240 INTO=folder]'
	@echo 'make clean   removes .venv and caches, keeps out/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)

INSTALL = PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt -e

# One stamp for each set of extras.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV), once ...'
	@$(INSTALL) .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV), with the tools of development, once ...'
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV), with the web demo, once ...'
	@$(INSTALL) '.[demo]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed-demo
	@$(BIN)/vlm demo --port "$$PORT"

guide: $(VENV)/.installed
	@$(BIN)/vlm guide --force --seed "$$SEED" -- "$$PROMPT"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2

eval: $(VENV)/.installed
	$(BIN)/vlm eval --force --seed "$$SEED" --json out/eval.json --page out/eval

# Four hours on two cores; GPU=1 takes the settings for a GPU and half an hour; MINUTES=N trains for N minutes in all, three
# eighths of them the tokenizer. The bundle goes INTO a folder, by default the packaged one. A run that was stopped goes on
# from its last checkpoint when it is started again with the same MINUTES; with more, the tokenizer trains on, and its new
# codes want new towers: remove runs/model then. Remove runs/tokenizer too to begin anew.
CONFIGS := vlm/configs
KIND := $(if $(GPU),-gpu)
INTO ?= vlm/bundle
EIGHTHS = $(if $(MINUTES),--set train.minutes=$(shell echo "$(MINUTES) $(1)" | awk '{print $$1 * $$2 / 8}'))
bundle: $(VENV)/.installed
	@test ! -e '$(INTO)' || test -f '$(INTO)/stream_processor.json' || \
		{ echo '$(INTO) is there and is no bundle, expected none or a bundle to replace; choose another INTO'; exit 2; }
	$(BIN)/vlm train tokenizer --config $(CONFIGS)/tokenizer$(KIND).yaml $(call EIGHTHS,3) --out runs/tokenizer
	$(BIN)/vlm train model --config $(CONFIGS)/model$(KIND).yaml $(call EIGHTHS,5) --out runs/model
	$(BIN)/vlm eval --bundle runs/model/bundle --limit 60 --card --json runs/eval.json --page runs/eval --force
	test '$(INTO)' -ef runs/model/bundle || { rm -rf '$(INTO)' && mkdir -p "$$(dirname '$(INTO)')" && cp -r runs/model/bundle '$(INTO)'; }

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
