# Each target is one or two lines; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# Compose v2 where the engine has it, docker-compose 1.29 elsewhere.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.DEFAULT_GOAL := help
.PHONY: help install fmt check demo test test-long test-e2e bench peers audit sbom run up down train clean

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(STAMP) ## .venv in the repository root with everything the other targets need

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[edge,cloud,tracing,load,train,bench,dev]' && touch $@

fmt: $(STAMP) ## format the code and fix what ruff can fix
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy && $(BIN)/lint-imports

demo: $(STAMP) ## start both sides with the shipped model, generate, show what each token cost
	$(BIN)/tandem demo

test test-long: export HF_HUB_OFFLINE := 1

test: $(STAMP) ## every test that needs no container engine, at reduced size with fixed seeds
	$(BIN)/pytest --size short

test-long: $(STAMP) ## the same tests at full size; resumes; writes tests/results/latest.json
	$(BIN)/pytest --size long --timeout 3600 $(if $(FRESH),--fresh)

test-e2e: $(STAMP) ## build the images; run the fleet's pods (podman) and the compose stack (docker) for real
	COMPOSE="$(COMPOSE)" $(BIN)/pytest tests/e2e --timeout 1200 -s

bench: $(STAMP) ## every deployment on every network, table and plots; QUICK=1 for a few minutes of it
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

peers: $(STAMP) ## compile llama.cpp for `make bench` to compare with (ten minutes)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[peers]'

audit: .venv/supply ## whether an installed package is known to be vulnerable
	$(BIN)/python -m services.audit

sbom: .venv/supply ## what each image holds of Python, as CycloneDX: .sbom/{edge,cloud,load}.cdx.json
	mkdir -p .sbom && $(foreach i,edge cloud load,$(BIN)/python -m services.components $i > .sbom/$i.txt && $(BIN)/cyclonedx-py requirements --output-reproducible --output-file .sbom/$i.cdx.json .sbom/$i.txt &&) true

.venv/supply: $(STAMP)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[supply]' && touch $@

run: $(STAMP) ## both services in the foreground: edge on 8000, cloud on 8001
	exec $(BIN)/tandem run

up: ## docker compose up: edge, cloud, Redis, Prometheus, Grafana (PROFILES=fleet for four edges)
	COMPOSE_PROFILES=$(PROFILES) $(COMPOSE) up --build --detach

down: ## stop what `make up` started; volumes stay
	COMPOSE_PROFILES=fleet,gpu,load $(COMPOSE) down --remove-orphans

train: $(STAMP) ## train a model like the shipped one: make train TEXT=folder OUT=folder
	$(BIN)/tandem train $(TEXT) --out $(or $(OUT),.train/model) --resume

clean: ## remove what the other targets made, .venv included
	rm -rf .venv .bundles .sbom .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
