# The environment in .venv, the build in install/, and what to do with them. `make help` lists it.

PYTHON ?= python3
BAG ?=
ENGINE ?=
DEPTH ?=
OUT ?= out
PYTEST_ARGS ?=
# Processes of the test suite. The tests of one file share fixtures and stay together.
JOBS ?= 2

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help env env-dev build test test-fast lint docs demo map clean needs-bag bag-exists

engine_option = $(if $(ENGINE),--engine "$(ENGINE)") $(if $(DEPTH),--depth "$(DEPTH)")

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

env:  ## make .venv with what mapping needs, or bring it up to date
	@PYTHON="$(PYTHON)" tools/make_env

env-dev:  ## the same with what tests and linters need besides
	@PYTHON="$(PYTHON)" tools/make_env dev

build: env  ## build the package and its messages into install/
	@tools/build

test: env-dev build  ## run all tests: [PYTEST_ARGS="-k name -x"] [JOBS=2]
	@. ./env.sh && exec pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-fast: env-dev build  ## run the quick tests, in about a minute
	@. ./env.sh && exec pytest -n $(JOBS) --dist loadfile -m "not slow" --ignore test/ros $(PYTEST_ARGS)

lint: env-dev  ## run all linters
	@tools/lint

docs: env-dev  ## make the site of docs/ and the docstrings in build/site; warnings are errors
	@. ./env.sh && exec sphinx-build -qnW --keep-going -d build/site/.doctrees docs build/site

demo: bag-exists build  ## run the real nodes on a bag: [BAG=path] [ENGINE=folder] [DEPTH=folder] [OUT=out]
	@. ./env.sh && exec mvdust3r_ros demo $(if $(BAG),--bag "$(BAG)") $(engine_option) --out "$(OUT)"

map: needs-bag bag-exists build  ## map a bag without ROS messages, as fast as it goes: BAG=path [ENGINE=folder] [DEPTH=folder] [OUT=out]
	@. ./env.sh && exec mvdust3r_ros map "$(BAG)" $(engine_option) --out "$(OUT)"

# Said before anything is installed or built.
needs-bag:
	@$(if $(BAG),:,echo "make map needs a bag: make map BAG=path/to/bag" >&2; exit 2)

bag-exists:
	@$(if $(BAG),[ -e "$(BAG)" ] || { echo "BAG=$(BAG) does not exist" >&2; exit 2; },:)

clean:  ## remove all that was built (not the environment)
	rm -rf build install log .mypy_cache .ruff_cache .pytest_cache
