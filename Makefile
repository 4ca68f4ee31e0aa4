# make train MODEL=resnet18 sets up what is missing, trains and tests. `make help` lists the rest.

# `=` and not `?=`: a variable that happens to be exported in the shell must not rename a run.
# All of them can be set on the command line.
MODEL = resnet18
PYTHON = python3
DATA = data
NAME = $(MODEL)
CKPT = runs/$(NAME)/best.pt
EPOCHS =
SEED =
ARGS =

SETUP = .venv/installed
FILES = $(DATA)/FashionMNIST/raw/t10k-labels-idx1-ubyte

ifneq ($(words $(DATA)),1)
$(error DATA="$(DATA)": make cannot handle spaces in paths; use a folder without, or the scripts)
endif

.PHONY: help train evaluate figures bench ablation tensorboard test lint data clean
.DEFAULT_GOAL := help

help:
	@echo "make train        train MODEL, then test it       MODEL=mlp|resnet18|resnet34 EPOCHS SEED NAME ARGS"
	@echo "make evaluate     evaluate a checkpoint           CKPT=runs/resnet18/best.pt (or MODEL, NAME) ARGS"
	@echo "make figures      draw the figures and a table    ARGS"
	@echo "make bench        measure the machine's speed     ARGS"
	@echo "make ablation     measure each change's effect    ARGS (hours; ARGS=--list shows the runs)"
	@echo "make tensorboard  show the runs in a browser      ARGS"
	@echo "make test         run the tests                   ARGS"
	@echo "make lint         check the code with ruff"
	@echo "make data         download and verify the data    DATA=data"
	@echo "make clean        remove .venv, figures and caches; data and runs stay"
	@echo
	@echo "ARGS takes any option of the script: make train MODEL=mlp ARGS='--recipe report --resume'."
	@echo "PYTHON=python3.12 chooses the interpreter that .venv is made with."

train: $(SETUP) $(FILES)
	.venv/bin/python train.py --model "$(MODEL)" --name "$(NAME)" --data-dir "$(DATA)" \
	    $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

evaluate: $(SETUP) $(FILES)
	.venv/bin/python evaluate.py --ckpt "$(CKPT)" --data-dir "$(DATA)" $(ARGS)

figures: $(SETUP) $(FILES)
	.venv/bin/python analyze.py --data-dir "$(DATA)" $(ARGS)

bench ablation: $(SETUP) $(FILES)
	.venv/bin/python extras/$@.py --data-dir "$(DATA)" $(ARGS)

tensorboard: $(SETUP)
	.venv/bin/tensorboard --logdir runs $(ARGS)

test: $(SETUP) $(FILES)
	FASHION_MNIST="$(abspath $(DATA))" .venv/bin/python -m pytest -q -n 2 tests $(ARGS)

lint: $(SETUP)
	.venv/bin/python -m pip install -q ruff==$(RUFF)
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

# Another release finds other things.
RUFF = 0.17.6

data: $(SETUP)
	.venv/bin/python data.py --data-dir "$(DATA)" || .venv/bin/python extras/debian_data.py --data-dir "$(DATA)"

clean:
	rm -rf .venv figures .pytest_cache .ruff_cache __pycache__ */__pycache__

# The stamp comes last: an interrupted installation is repeated.
$(SETUP): requirements.txt
	"$(PYTHON)" -m venv .venv
	.venv/bin/python -m pip install -r requirements.txt
	touch $@

# The last of the four files that are put in place.
$(FILES): | $(SETUP)
	@$(MAKE) --no-print-directory data DATA="$(DATA)"
