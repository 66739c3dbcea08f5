# Every target does the set-up it needs by itself; the second time that takes well under a second.
# Nothing is installed outside .venv and the embedded database's own directories (see `make clean`).

.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin

.PHONY: help setup demo serve test law fuzz faults bad-input abuse fuzz-wire check bench bench-peers storm-score simulate torture overload soak coverage mutants sbom audit lock wheels clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Python environment and TimescaleDB, if they are not there yet
	@tools/setup.sh all

demo: setup ## run the main job on real reads and show the alarms; JSON=file also writes the result there
	@$(BIN)/meterwatch demo $(if $(JSON),--json '$(JSON)')

serve: setup ## start the service with its own database; Ctrl-C stops both
	@$(BIN)/meterwatch serve

test: setup ## all tests, two files at a time; JOBS=1 for one after the other
	@$(BIN)/python -m pytest --numprocesses $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder

law: setup ## the law of event time in full: many ways to send, one result; BAMBERG=FILE.parquet for the whole file, WAYS=20,kill for some
	@METERWATCH_LAW_LONG=1 $(if $(BAMBERG),METERWATCH_BAMBERG='$(BAMBERG)') $(if $(WAYS),METERWATCH_LAW_WAYS='$(WAYS)') $(BIN)/python -m pytest tests/integration/test_law.py -q -s -p no:cacheprovider -o log_cli=false

fuzz: setup ## whatever reads what others send, against sound input with one thing wrong: N=10000 runs of each reader, SEED=1; GUIDED=1 builds on what got furthest, ONLY=nem12, SECONDS=60 of each
	@$(BIN)/python -m meterwatch.devtools.$(if $(GUIDED),guided,fuzz) --runs $(or $(N),10000) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY)) $(if $(GUIDED),$(if $(SECONDS),--seconds $(SECONDS)))

faults: setup ## break the network in front of the service and of its database, and crowd it; SEEDS=20 cuts
	@METERWATCH_FAULT_SEEDS=$(or $(SEEDS),20) METERWATCH_CROWD=500 METERWATCH_SUBSCRIPTIONS=10000 $(BIN)/python -m pytest tests/test_breakable.py tests/storage/test_nth_call.py tests/storage/test_patience.py tests/integration/test_wire_faults.py tests/integration/test_database_faults.py tests/integration/test_nth_call_served.py tests/integration/test_full_disk.py tests/integration/test_no_wal_room.py tests/test_forgetful_disk.py tests/integration/test_disk_error.py tests/integration/test_power_loss.py tests/integration/test_out_of_memory.py tests/integration/test_descriptors.py tests/integration/test_everybody_returns.py tests/alarm/test_left_subscriptions.py -q

bad-input: setup ## send everything of the catalogue of bad input and write down what came back (docs/bad_input.md)
	@rm -f tests/golden/bad_input.json
	@METERWATCH_BAD_INPUT=write $(BIN)/python -m pytest tests/integration/test_bad_*.py tests/integration/test_drift_days.py tests/files/test_bad_files.py tests/access/test_bad_callers.py tests/access/test_room.py -q
	@$(BIN)/python tests/bad_inputs.py

abuse: setup ## all of that which reaches a running service, TIMES=100 times each in random order (SEED=1), several at once; JSON=file
	@METERWATCH_ABUSE_TIMES=$(or $(TIMES),100) METERWATCH_ABUSE_SEED=$(or $(SEED),1) METERWATCH_ABUSE_JSON='$(abspath $(JSON))' $(BIN)/python -m pytest tests/integration/test_abuse.py -q -s -p no:cacheprovider -o timeout=0

fuzz-wire: setup ## CONNECTIONS=10000 that speak broken HTTP/2, over plain text and TLS, beside somebody who does it right; SEED=1, JSON=file
	@$(BIN)/python -m loadtest.wire_fuzz --connections $(or $(CONNECTIONS),10000) --seed $(or $(SEED),1) $(if $(JSON),--json '$(JSON)')

check: ## lint, format, types, layout, freshness of generated code and pages
	@tools/setup.sh python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m meterwatch.devtools.stubs --check
	$(BIN)/python -m meterwatch.devtools.protodoc --check
	$(BIN)/python -m meterwatch.devtools.lifecycle --check
	$(BIN)/python tests/bad_inputs.py --check

bench: setup ## the whole service beside raw COPY of the same rows; JSON=file also writes every run there, ONLY=copy,fanout just these
	@$(BIN)/python -m loadtest.bench $(if $(JSON),--json '$(JSON)') $(if $(ONLY),--only '$(ONLY)')

bench-peers: setup ## the service beside VictoriaMetrics, InfluxDB and plain INSERT; JSON=file also writes every run there
	@$(BIN)/python -m loadtest.peers $(if $(JSON),--json '$(JSON)')

storm-score: setup ## rules and alarm book against SEEDS=10 storms whose truth is known, JOBS=1 at once; JSON=file also writes all figures there
	@$(BIN)/python -m meterwatch.devtools.storm_score --seeds $(or $(SEEDS),10) --jobs $(or $(JOBS),1) $(if $(JSON),--json '$(JSON)')

simulate: setup ## rules, alarm book and hub through SEEDS=2000 simulated days from SEED=1 on, in any delivery; JSON=file, JOBS=processes
	@$(BIN)/python -m meterwatch.devtools.simulate --seeds $(or $(SEEDS),2000) --seed $(or $(SEED),1) $(if $(JOBS),--jobs $(JOBS)) $(if $(JSON),--json '$(JSON)')

torture: setup ## kill service and database CYCLES=100 times under load; JSON=file, SEED=n, DIR=directory to go on with, CONTROL=name
	@$(BIN)/python -m meterwatch.devtools.torture.run --cycles $(or $(CYCLES),100) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json '$(JSON)') $(if $(DIR),--dir '$(DIR)') $(if $(CONTROL),--control $(CONTROL))

overload: setup ## twice what the service can take for SECONDS=60: what is owed is kept, or it fails; JSON=file also writes the figures there
	@$(BIN)/python -m loadtest.overload --seconds $(or $(SECONDS),60) $(if $(JSON),--json '$(JSON)')

soak: setup ## half of what the service can take for MINUTES=30, with clients that come and go; JSON=file, HTML=file, SVG=file: what it came to
	@$(BIN)/python -m loadtest.soak --minutes $(or $(MINUTES),30) $(if $(JSON),--json '$(JSON)') $(if $(HTML),--html '$(HTML)') $(if $(SVG),--svg '$(SVG)')

coverage: setup ## lines and branches of ingest, storage, rules and alarm that the tests run; TESTS="files" asks others, JSON=file
	@$(BIN)/python -m meterwatch.devtools.covered $(TESTS) --jobs $(or $(JOBS),2) $(if $(JSON),--json '$(JSON)')

mutants: setup ## make N=200 small things of the kernels wrong, one at a time, and see whether a test notices; SEED=1, ONLY="book hub", JSON=file
	@$(BIN)/python -m meterwatch.devtools.mutants.run --number $(or $(N),200) --seed $(or $(SEED),1) --jobs $(or $(JOBS),2) $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json '$(JSON)') $(if $(AGAIN),--again '$(AGAIN)') $(if $(KEPT),--kept '$(KEPT)')

sbom: ## bill of materials of the locked packages and of Debian's, as CycloneDX in FILE=sbom.cdx.json
	@tools/setup.sh python
	@$(BIN)/python -m meterwatch.devtools.sbom --out '$(or $(FILE),sbom.cdx.json)'

audit: ## known holes in the locked packages; fails also where they could not be looked up, and says so
	@tools/setup.sh python
	@$(BIN)/python -m meterwatch.devtools.audit

lock: ## pin the newest allowed dependencies in requirements.lock
	@tools/setup.sh python
	@tools/setup.sh lock

wheels: ## the locked packages, each checked by its hash, and meterwatch as wheels in DIR=wheels, to install without a network
	@tools/setup.sh python
	@tools/setup.sh wheels '$(or $(DIR),wheels)'

clean: ## remove all that was set up here: .venv, caches, provisioned TimescaleDB, the embedded database and its data
	@tools/setup.sh clean
