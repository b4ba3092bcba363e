# Set-up, demo, tests. Needs python3 (3.11 to 3.13), make and the network; everything else goes into .venv.
PYTHON ?= python3
UV := uv==0.13.9
BIN := .venv/bin

.PHONY: help demo test check setup lock clean docs published gpu gpu-kit release-check slurm-up slurm-down chaos faults
help:  ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: setup  ## run a small real sweep on CIFAR-10 images and show its leaderboard
	@spec=quickstart; $(BIN)/cifar-hpc fetch sweeps/$$spec.yaml || { \
	  spec=quickstart_scratch; \
	  echo "Not all of that can be had here, see above: two small networks from scratch are shown instead."; \
	  $(BIN)/cifar-hpc fetch sweeps/$$spec.yaml; \
	} && $(BIN)/cifar-hpc sweep sweeps/$$spec.yaml && $(BIN)/cifar-hpc report $$spec

test: setup check  ## run every check and test, two at once
	$(BIN)/pytest -n 2 --dist loadfile

check: setup  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: .venv/.ready  ## make .venv from requirements.lock

# Bytecode is compiled at once: without it every process would start several seconds later.
.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q cifar_hpc
	touch $@

docs: setup  ## build the guide into build/docs, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

published: setup  ## renew results/published from the sweeps in results/, and check that its text and tables agree
	$(BIN)/python docs/published.py
	$(BIN)/pytest -q tests/test_published.py

release-check: setup  ## build wheel and sdist, check them, install and run them outside of the checkout
	$(BIN)/python .ci/release_check.py

lock:  ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --extra dev pyproject.toml --output-file requirements.lock

slurm-up:  ## bring up a real Slurm of four nodes on this machine (Debian's slurmctld slurmd slurm-client munge)
	python3 slurm/local/cluster.py up --root /tmp/slurm-local

slurm-down:  ## end it
	python3 slurm/local/cluster.py down --root /tmp/slurm-local

chaos: setup  ## attack a sweep on a local Slurm at random and compare it with an undisturbed one
	$(BIN)/python slurm/chaos.py

gpu: setup  ## check what a GPU computes, then measure it (needs a CUDA device)
	$(BIN)/pytest -m gpu tests/test_gpu.py
	$(BIN)/python -m benchmarks.gpu

gpu-kit: setup  ## pack that for a GPU machine without a network, into .gpu/
	$(BIN)/python -m benchmarks.gpu_kit

faults: setup  ## 100 kills -9 and 200 refused writes over the commands, at most 10 minutes
	$(BIN)/python -m tests.faults

clean:  ## remove .venv (results and data stay)
	rm -rf .venv
