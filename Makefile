# `make demo`, `make test` and `make check` are all anyone must know.
.DEFAULT_GOAL := help
.PHONY: help demo test check faults bench champion lock
BIN := .venv/bin
# A file's tests stay together: they share the fleets and models that they make.
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadfile
# Two threads of one process on a busy machine take a thousand times longer to score than one.
export OMP_NUM_THREADS := 1

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-9s%s\n' "$$name" "$$what"; done

demo: .venv/runtime  ## a basin of simulated gates, all the way to a signed webhook; ARGS=--exit-when-delivered ends by itself
	$(BIN)/sluicewatch demo $(ARGS)

test: .venv/dev  ## all tests; ARGS="tests/service -k broker" for some
	@tests/install-servers
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

check: .venv/dev  ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: .venv/dev  ## kill -9, 200 times at random moments, of ingest, broker and whatever may be half done; `make test` does it 10 times
	FAULTS_KILLS=200 $(BIN)/python -m pytest tests/faults --timeout 3600 --log-cli-level=INFO $(ARGS)

bench: .venv/dev  ## how fast it is on this machine
	$(BIN)/sluicewatch bench $(ARGS)

# Half an hour on two cores. The same versions make the same files: afterwards git shows whether anything changed.
CHAMPION := 2026.11.9
champion: .venv/dev  ## remake the shipped model from its simulated fleet
	rm -rf build/champion build/registry
	$(BIN)/sluicewatch simulate --to build/champion --gates 600 --days 720 --seed 2026 --jobs 2
	$(BIN)/sluicewatch train build/champion --registry build/registry --name $(CHAMPION) --jobs 2
	rm -rf models/artifacts && mkdir models/artifacts
	cp -r build/registry/$(CHAMPION) models/artifacts && rm models/artifacts/$(CHAMPION)/manifest.sig
	printf '{\n  "champion": "$(CHAMPION)"\n}\n' > models/artifacts/aliases.json
	@hash=$$(sha256sum models/artifacts/$(CHAMPION)/manifest.json | cut -d' ' -f1); grep -q "$$hash" models/registry.py || \
	  { echo "now write in models/registry.py: SHIPPED_MANIFEST_SHA256 = \"$$hash\""; exit 1; }

# Run on Python 3.11 by whoever raises a version in pyproject.toml; ARGS=--upgrade raises everything.
LOCK := uv pip compile --quiet --extra demo --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header \
	--annotation-style line
lock:  ## remake the locked requirements (needs uv); ARGS=--upgrade takes newer versions
	$(LOCK) $(ARGS) pyproject.toml requirements/build.in -o requirements/runtime.txt
	$(LOCK) $(ARGS) --group dev pyproject.toml requirements/build.in -c requirements/runtime.txt -o requirements/dev.txt

# Stamps: what was installed, and when. The environment for development has everything the demo needs.
.venv/runtime: requirements/runtime.txt requirements/install pyproject.toml
	@requirements/install runtime
	@touch $@

.venv/dev: requirements/dev.txt requirements/install pyproject.toml
	@requirements/install dev
	@touch .venv/runtime $@
