# Everything goes through llmkit/course/environment.py, which makes .venv where it is missing.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; \
	done || true)
# Where no fitting Python was found, another one still says so in clear words.
RUN = "$(or $(PYTHON),python3)" llmkit/course/environment.py
PORT ?= 8888
BROWSER ?= 1

help:            ## this list
	@grep -E '^[a-z-]+: ' Makefile | sed 's/ *##/\t/; s/://' | expand -t 14

lab:             ## open lesson 01 in JupyterLab (PORT=8888, BROWSER=0 to serve only)
	@$(RUN) lab "PORT=$(PORT)" "BROWSER=$(BROWSER)"

test:            ## everything that must hold: lint, notebooks, nbval, pytest
	@$(RUN) test

test-all:        ## test, test-colab, site and test-browser
	@$(RUN) test-all

test-colab:      ## each notebook under Colab's versions, from a wheel, in an empty folder (minutes)
	@$(RUN) test-colab

test-browser:    ## JupyterLab and the site in a real Chromium; screenshots in build/screenshots/
	@$(RUN) test-browser

notebooks:       ## build all notebooks from their masters in solutions/
	@$(RUN) notebooks

site:            ## the static site, in site/
	@$(RUN) site

lint:            ## ruff
	@$(RUN) lint

bench:           ## speed, as ratios to the libraries that are known for it
	@$(RUN) bench

results:         ## the long runs of docs/results.md, anew (two hours on two quick cores; ONLY="toyland speed" for some)
	@$(RUN) results $(ONLY)

capstone:        ## one small model through lessons 05 to 20, and a page about it: capstone/report.md (about 12 minutes)
	@$(RUN) capstone

time:            ## how long each lesson takes, counted
	@$(RUN) time

progress:        ## which exercises are done
	@$(RUN) progress

clean:           ## remove caches and builds; .venv and answers/ stay
	@$(RUN) clean

.PHONY: help lab test test-all test-colab test-browser notebooks site lint bench results capstone time progress clean
.DEFAULT_GOAL := help
