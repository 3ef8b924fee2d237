# The one command surface: `make help` lists what there is. Needs Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS := $(wildcard book/*.ipynb)
BOOK := _build/html/index.html
BOOK_SOURCES := _config.yml _toc.yml $(wildcard book/*) $(wildcard gmlvm/*.py gmlvm/*/*.py gmlvm_book/*.py) $(shell find assets gmlvm/data -type f)

# What is published was made without progress bars: their timings would differ at every run.
unit nbval notebooks: export TQDM_DISABLE := 1
# A test, or a notebook, for each core: faster than all cores for one.
unit nbval: export OMP_NUM_THREADS := 1
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4 --durations=12

.PHONY: help book pdf test lint types unit nbval pages notebooks colab results bench clean
.DELETE_ON_ERROR:

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 18

book: $(BOOK) ## build the book and say where to open it
	@echo "The book is built. Open file://$(CURDIR)/$(BOOK)"

pdf: $(BOOK) ## print the book, with a Chromium or Chrome that is installed
	$(BIN)/python -m gmlvm_book.pdf _build/html _build/book.pdf

test: ## everything: lint, types, the book's build, unit tests, notebooks, pages
	$(MAKE) -j2 lint types $(BOOK)
	$(MAKE) unit nbval pages

lint: $(VENV)/ready ## lint and format check of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready ## static types of the library
	$(BIN)/mypy

unit: $(VENV)/ready ## unit tests and doctests
	$(PYTEST) tests gmlvm gmlvm_book --ignore tests/test_pages.py

nbval: $(VENV)/ready ## run every notebook and compare with its committed outputs
	$(PYTEST) --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=900 book

pages: $(BOOK) ## every page of the built book: links, phone, paper, dark, by ear; in a Chromium that is installed
	$(PYTEST) tests/test_pages.py

notebooks: $(VENV)/ready ## run every notebook from scratch and write its outputs
	$(BIN)/python -m gmlvm_book.setup_cell $(NOTEBOOKS)
	$(BIN)/ruff format book
	cd book && for notebook in $(notdir $(NOTEBOOKS)); do \
	  ../$(BIN)/python -m jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=900 $$notebook || exit 1; done
	$(BIN)/python -m gmlvm_book.figures $(NOTEBOOKS)
	$(BIN)/python -m gmlvm_book.picture

colab: $(VENV)/ready ## write the chapters as plain notebooks for Colab, from what `make notebooks` left
	rm -rf _build/colab
	$(BIN)/jupyter-book build . --all -W -n --keep-going --builder custom --custom-builder colab
	rm -rf colab && mkdir colab && cp -r _build/colab/book colab

results: $(VENV)/ready ## make the committed files under results/ and the trained models again (about twenty-eight hours on two cores)
	$(BIN)/python -m experiments.collapse --output results/collapse.json
	$(BIN)/python -m experiments.wae_start --output results/wae_start.json \
	    --methods "wae, beta 1" "wae, beta 10" "scratch, beta 1"
	$(BIN)/python -m experiments.wae_start --output results/scratch.json --methods "scratch, beta 10"
	$(BIN)/python -m experiments.new_encoder --output results/new_encoder.json --seeds 0 1 2
	$(BIN)/python -m experiments.seeds --output results/gm_wae_seeds.json
	$(BIN)/python -m experiments.expectations --output results/expectations.json
	$(BIN)/python -m experiments.expectations --output results/expectations_fresh.json \
	    --seeds $$(seq 10 39) --methods truncated top-m resampled
	$(BIN)/python -m gmlvm_book.instrument --output results/classifier.safetensors
	$(BIN)/python -m experiments.digits --output results/digits.json --methods path
	$(BIN)/python -m experiments.contest --output results/contest.json
	$(BIN)/python -m experiments.vade --output results/vade.json
	$(BIN)/python -m experiments.origin --output results/origin.json --seeds 0 1 2 \
	    --methods VAE "VAE, many Gaussians"
	$(BIN)/python -m experiments.ablations --output results/ablations.json --methods "no teacher" merged
	$(BIN)/python -m experiments.ablations --output results/parts.json --seeds 0 1 2 --methods after without supervised
	$(BIN)/python -m experiments.ablations --output results/deep.json --methods "deep networks, no start"
	$(BIN)/python -m experiments.components --output results/components.json --seeds 0 1 2
	$(BIN)/python -m experiments.other_data --output results/other_data.json
	$(BIN)/python -m experiments.imbalance --output results/imbalance.json --methods ten
	$(BIN)/python -m experiments.imbalance --output results/rare.json --seeds 0 \
	    --methods "rare 1 5 9" "rare 2 6 0" "rare 3 7 1"
	$(BIN)/python -m experiments.imbalance --output results/many.json --seeds 0 1 2 --methods many
	$(BIN)/python -m experiments.imbalance --output results/unequal_shapes.json --seeds 0 1 2 \
	    --methods "unequal shapes"
	$(BIN)/python -m experiments.causes --output results/causes.json
	$(BIN)/python -m experiments.controls --output results/controls.json
	$(BIN)/python -m experiments.unmatched --output results/unmatched.json
	$(BIN)/python -m experiments.price --output results/price.json --seeds 0 1 2
	$(BIN)/python -m experiments.survival --output results/survival.json --methods "mlp *"
	$(BIN)/python -m experiments.survival --output results/survival_conv.json --methods "conv *"
	$(BIN)/python -m experiments.ways_out --output results/ways_out.json
	$(BIN)/python -m experiments.penalties --output results/penalties.json --seeds 0 1 2 --methods \
	    "codes, weight 0.5" "codes, weight 2" "codes, weight 5" "codes, weight 20" \
	    "pairs, weight 0.3" "pairs, weight 2" "pairs, weight 20"
	$(BIN)/python -m experiments.weights --output results/weights.json
	$(BIN)/python -m experiments.recipe --output results/recipe.json --seeds 0
	$(BIN)/python -m experiments.recipe --output results/recipe_asked.json --seeds 0 \
	    --methods "small digits, 15 asked" "imbalanced MNIST, 15 asked"
	$(BIN)/python -m experiments.choices --output results/choices.json --seeds 0
	$(BIN)/python -m experiments.choices --output results/choices_more.json --seeds 1 2
	$(BIN)/python -m experiments.groupless --output results/groupless.json --seeds 0 \
	    --methods discs "small digits" "coloured shapes"
	$(BIN)/python -m experiments.groupless --output results/groupless_one.json --seeds 0 --methods "one *"
	$(BIN)/python -m experiments.widths --output results/widths.json
	$(BIN)/python -m experiments.number --output results/number.json
	$(BIN)/python -m experiments.paper --output results/paper_long.json --seeds 0 \
	    --methods "VAE beta 10 after short WAE" "WAE, third"
	$(BIN)/python -m experiments.paper --output results/paper_third.json --seeds 1 2 --methods "WAE, third"
	$(BIN)/python -m experiments.paper --output results/paper_levers.json --seeds 0 \
	    --methods WAE "VAE beta 10" "weight 1750" pairs
	$(BIN)/python -m experiments.paper --output results/paper_normal.json --seeds 0 \
	    --methods "VAE beta 10, standard normal"
	$(BIN)/python -m experiments.paper --output results/paper_pairs.json --seeds 0 1 2 --methods pairs
	$(BIN)/python -m experiments.paper --output results/paper_pairs_third.json --seeds 0 --methods "pairs, third"
	$(BIN)/python -m experiments.paper --output results/paper_exact.json --seeds 0 --methods "exact sum"
	$(BIN)/python -m experiments.paper --output results/paper_drawn.json --seeds 0 --methods "drawn sum, all decoded"
	$(BIN)/python -m experiments.paper --output results/paper_vae_10.json --seeds 0 --methods "VAE beta 10, whole"
	$(BIN)/python -m experiments.paper --output results/paper_vae_1.json --seeds 0 --methods "VAE beta 1"
	$(BIN)/python -m experiments.paper --output results/paper_more.json --seeds 0 --methods \
	    2018-09 "2021, weight 1750" "narrow kernels" "q_C not matched" "ordinary start" "beta1 .9"
	$(BIN)/python -m experiments.paper --output results/paper_weights.json --seeds 0 \
	    --methods "weight 450" "weight 750" "five codes"
	$(BIN)/python -m experiments.paper --output results/paper_after.json --seeds 0 --methods "VAE beta 10 after early WAE"
	$(BIN)/python -m experiments.paper --output results/paper_whole.json --seeds 0 --methods "WAE, whole"
	$(BIN)/python -m experiments.paper --output results/paper_after_whole.json --seeds 0 \
	    --methods "VAE beta 10 after whole WAE"
	$(BIN)/python -m experiments.likelihoods --output results/likelihoods.json --seeds 0 --methods \
	    "one Gaussian, static" "mixture, static" "mixture, start of q_D, static" "mixture, after the WAE, static" \
	    "one Gaussian, dynamic" "mixture, dynamic" "mixture, start of q_D, dynamic" "mixture, after the WAE, dynamic"
	$(BIN)/python -m experiments.likelihoods --output results/likelihoods_wide.json --seeds 0 --methods \
	    "mixture, start of q_D, wide q_C, static" "mixture, wide q_C, static"
	$(BIN)/python -m experiments.pretrained --output gmlvm/data/pretrained
	$(BIN)/python -m benchmarks --json results/benchmarks.json
	$(BIN)/python -m benchmarks.groups --json results/seconds.json
	$(BIN)/python -m benchmarks.sizes --json results/sizes.json
	$(BIN)/python -m benchmarks.counts --json results/counts.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.chapters --json results/chapters.json

bench: $(VENV)/ready ## measure how fast training is against a plain version, the start of q_D beside its peers, and what larger images and more of them cost (about half an hour on two cores)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.groups
	$(BIN)/python -m benchmarks.sizes
	$(BIN)/python -m benchmarks.counts

clean: ## remove the environment and everything built
	rm -rf $(VENV) _build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BOOK): $(VENV)/ready $(BOOK_SOURCES)
	$(BIN)/jupyter-book build . --all -W -n --keep-going
	@touch $@

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[book,test]"
	@touch $@
