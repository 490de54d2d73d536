.PHONY: run test test-busy chaos bench bench-all bench-growth bench-flamegraph bench-context bench-authoring fuzz-api real-model lint format migrate lock clean

# A terminal's Ctrl-C reaches the server itself; HOST, PORT, DATABASE_URL and so on come from the environment or .env.
run:
	@requirements/install run
	@exec .venv/bin/python -m api serve

# make test ARGS="-k fork": a part of it. Many tests wait for processes, so there are more workers than cores.
test:
	@requirements/install dev
	@.venv/bin/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

# The same on a busy machine, with BUSY endless loops at the same time. No test may depend on being quick.
BUSY ?= 4
test-busy:
	@requirements/install dev
	@loops=""; trap 'kill $$loops' EXIT; trap 'exit 130' INT TERM; \
		for _ in $$(seq $(BUSY)); do timeout 3600 sh -c 'while :; do :; done' & loops="$$loops $$!"; done; \
		.venv/bin/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

# Processes killed, frozen, blocked and cut off, over and over, and a count of what was lost or doubled: an hour and a half.
# One part, or one seed again: see tests/chaos/__main__.py.
chaos:
	@requirements/install dev
	@.venv/bin/python -m tests.chaos crashes --runs 300
	@.venv/bin/python -m tests.chaos crashes --runs 100 --durability turn
	@.venv/bin/python -m tests.chaos crashes --runs 100 --durability async
	@.venv/bin/python -m tests.chaos crashes --agent questions --runs 100
	@.venv/bin/python -m tests.chaos frozen --runs 30
	@.venv/bin/python -m tests.chaos postgres --turns 2000
	@.venv/bin/python -m tests.chaos projections --seconds 120
	@.venv/bin/python -m tests.chaos projections --seconds 120 --idle other
	@.venv/bin/python -m tests.chaos projections --seconds 120 --idle same
	@.venv/bin/python -m tests.chaos containment --runs 100
	@.venv/bin/python -m tests.chaos errors --runs 104
	@.venv/bin/python -m tests.chaos redis --runs 12
	@.venv/bin/python -m tests.chaos clocks --runs 10
	@.venv/bin/python -m tests.chaos hostile --runs 12
	@.venv/bin/python -m tests.chaos rolling --runs 12
	@REPLAY_EVERY=1 .venv/bin/python -m pytest tests/e2e/test_airline_replay.py
	@EXACTLY_ONCE_ROUNDS=200 .venv/bin/python -m pytest tests/property/test_exactly_once.py
	@EXAMPLES_SHARE=1 .venv/bin/python -m pytest tests/property tests/unit tests/contracts
	@PAST_POINTS=30 .venv/bin/python -m pytest tests/integration/test_past.py

# Threadfold and others side by side: a quarter of an hour on two cores. ARGS="turns --pairs 7": a part of it
bench:
	@requirements/install bench
	@.venv-bench/bin/python -m benchmarks.side_by_side $(ARGS)

# The same with more threads, longer conversations and more processes: a night. ARGS="storage": a part of it
bench-all:
	@requirements/install bench
	@.venv-bench/bin/python -m benchmarks.side_by_side --extent full $(ARGS)

# What gets slower with ten million events: five minutes and up to 16 GB of disk. ARGS="--sizes 10000,1000000": a part of it
bench-growth:
	@requirements/install bench
	@.venv-bench/bin/python -m benchmarks.growth $(ARGS)

# Where a turn's time goes, in one picture: half a minute. ARGS="--turns 100": for longer. Needs the right to trace
bench-flamegraph:
	@requirements/install bench
	@mkdir -p benchmarks/results
	@.venv-bench/bin/py-spy record --rate 200 --format flamegraph --output benchmarks/results/turns.svg -- \
		.venv-bench/bin/python -m benchmarks.turns --threads 16 --turns 40 $(ARGS)

# What 200 turns cost, of Threadfold and of others: a minute and a half. ARGS="--customers 1": a part of it
bench-context:
	@requirements/install dev
	@.venv/bin/python -m benchmarks.context $(ARGS)

# The returns desk in three frameworks: lines, and what kill -9 does to each: five minutes. ARGS="--points mail": a part
bench-authoring:
	@requirements/install bench
	@.venv-bench/bin/python -m benchmarks.authoring $(ARGS)

# The service held against its own /schema by Schemathesis, with all its default checks: minutes. ARGS="--phases fuzzing"
fuzz-api:
	@requirements/install dev
	@requirements/fuzz-api $(ARGS)

# Twenty turns with tools, with a real model under llama.cpp: a few minutes, ten on a busy machine
real-model:
	@requirements/install dev
	@requirements/real-model $(ARGS)

lint:
	@requirements/install dev
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

format:
	@requirements/install dev
	.venv/bin/python -m ruff format .
	.venv/bin/python -m ruff check --fix .

migrate:
	@requirements/install run
	@.venv/bin/python -m api migrate

# New pins from pyproject.toml; UPGRADE=1 takes the newest versions.
lock:
	@requirements/install dev
	@requirements/lock

# Your data, in .data, stays.
clean:
	rm -rf .venv .venv-bench .venv-fuzz .venv-model .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.data/*' -prune -exec rm -rf {} +
