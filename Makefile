# make train MODEL=resnet18 sets up what is missing, trains and tests. `make help` lists the rest.

MODEL ?= resnet18
PYTHON ?= python3
DATA ?= data
RUN = $(or $(NAME),$(MODEL))
CKPT ?= runs/$(RUN)/best.pt

SETUP = .venv/installed
FILES = $(DATA)/FashionMNIST/raw/t10k-labels-idx1-ubyte

.PHONY: help train evaluate figures bench ablation soak tensorboard test lint data clean
.DEFAULT_GOAL := help

help:
	@echo "make train     train MODEL, then test it         MODEL=mlp|resnet18|resnet34 EPOCHS SEED NAME ARGS"
	@echo "make evaluate  judge a checkpoint                CKPT=runs/resnet18/best.pt (or MODEL, NAME) ARGS"
	@echo "make figures   draw all figures and tables       ARGS"
	@echo "make bench     measure this machine's speed      ARGS"
	@echo "make ablation  measure each change's effect      ARGS (hours; --list shows the runs)"
	@echo "make soak      kill 100 runs, resume, compare    ARGS (10 minutes)"
	@echo "make tensorboard  watch the runs in a browser"
	@echo "make test      run the tests                     ARGS"
	@echo "make lint      check the code with ruff"
	@echo "make data      fetch and verify FashionMNIST     DATA=data"
	@echo "make clean     remove .venv, figures and caches; data and runs stay"
	@echo
	@echo "ARGS takes any option of the script, e.g. make train MODEL=mlp ARGS='--recipe report --resume'."
	@echo "PYTHON=python3.12 chooses the interpreter that .venv is made with."

train: $(SETUP) $(FILES)
	.venv/bin/python train.py --model $(MODEL) --name $(RUN) --data-dir $(DATA) \
	    $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

evaluate: $(SETUP) $(FILES)
	.venv/bin/python evaluate.py --ckpt $(CKPT) --data-dir $(DATA) $(ARGS)

figures: $(SETUP) $(FILES)
	.venv/bin/python analyze.py --data-dir $(DATA) $(ARGS)

bench ablation soak: $(SETUP) $(FILES)
	.venv/bin/python extras/$@.py --data-dir $(DATA) $(ARGS)

tensorboard: $(SETUP)
	.venv/bin/tensorboard --logdir runs $(ARGS)

test: $(SETUP) $(FILES)
	.venv/bin/python -m pytest -q tests $(ARGS)

lint: $(SETUP)
	@.venv/bin/python -m ruff --version >/dev/null 2>&1 || .venv/bin/python -m pip install -q ruff
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

data: $(SETUP)
	.venv/bin/python data.py --data-dir $(DATA)

clean:
	rm -rf .venv figures .pytest_cache .ruff_cache __pycache__ */__pycache__

# The stamp comes last: an interrupted installation is done again.
$(SETUP): requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -r requirements.txt
	touch $@

# The last of the four files that data.py puts in place.
$(FILES): | $(SETUP)
	.venv/bin/python data.py --data-dir $(DATA)
