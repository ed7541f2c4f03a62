# Two commands from a bare machine: `make demo` and `make test`. Everything else is a step of them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
JOBS ?= $(shell nproc)

DOCUMENT := examples/documents/observatory_handbook.md
QUESTION := What is the access code for the archive room?

.PHONY: help setup build demo test models bench format clean

help:  ## list the targets
	@echo "tokensieve: make TARGET [JOBS=N]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup:  ## install packages, fetch SmolLM2 and llama.cpp's source, build llama.cpp (once)
	@setup/packages.sh
	@setup/fetch.py smollm2 llama-source > /dev/null
	@llama="$$(JOBS=$(JOBS) setup/llama.sh)"; setup/weights.py "$$llama" > /dev/null

build: setup  ## set up, then build; leaves build/bin/tokensieve and the plug-in beside it
	@source="$$(setup/fetch.py llama-source)"; llama="$$(setup/llama.sh)"; \
	cmake --preset release -DTOKENSIEVE_LLAMA=ON \
	  -DTOKENSIEVE_LLAMA_DIR="$$source" -DTOKENSIEVE_LLAMA_BUILD="$$llama"
	@cmake --build build -j $(JOBS)

demo: build  ## ask SmolLM2 about a long document: stock, dense and sparse side by side
	@build/bin/tokensieve ask smollm2 --file $(DOCUMENT) "$(QUESTION)" --compare

test: build  ## build, then run all tests, sanitizer builds, AArch64 and a short fuzz run
	@setup/packages.sh --browser
	@setup/packages.sh --aarch64
	@JOBS=$(JOBS) setup/test.sh

models: build  ## fetch Gemma 3 270M (240 MB, Google's terms) and run ask, eval, tune, perplexity
	@model="$$(setup/fetch.py gemma3-270m)"; llama="$$(setup/llama.sh)"; \
	tests/models/gemma3_test.py build/bin/tokensieve "$$llama" "$$model"

bench: build  ## time every stage against llama.cpp's flash attention
	@build/bin/tokensieve bench

format:  ## reformat all C++ files (needs clang-format)
	@command -v clang-format > /dev/null || \
	  { echo "clang-format is missing: apt-get install clang-format" >&2; exit 1; }
	@git ls-files -z '*.h' '*.cc' '*.c' | xargs -0 --no-run-if-empty clang-format -i

clean:  ## remove the build folders (the cache folder stays)
	@rm -rf build build-debug build-asan build-tsan build-aarch64 build-fuzz
