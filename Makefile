# SPDX-License-Identifier: Apache-2.0
# From a bare Debian to a running proxy: each target installs what it misses and nothing twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

export PYTHON
# bpftool and ip live where an ordinary user's PATH may not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
MAKEFLAGS += --no-print-directory

# A stamp's name carries a digest of what decides the installation: time stamps do not matter.
digest := $(shell cat setup.cfg setup.py constraints.txt | sha256sum | cut -c1-16)
stamp = $(VENV)/.installed-$(1)-$(digest)

.DEFAULT_GOAL := build
.PHONY: help build bpf demo sandbox test soak image-test bench lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

build: $(call stamp,runtime) bpf ## make .venv/bin/kube-proxy and .venv/bin/kubeproxy-bpf

bpf: packages-build
	@$(MAKE) -s -C bpf

demo: build machine ## show Services working in a sandbox cluster, then remove it
	@$(BIN)/kubeproxy-bpf sandbox demo

sandbox: build machine ## start a sandbox cluster and leave it running
	@$(BIN)/kubeproxy-bpf sandbox up

test: packages-test $(call stamp,test) build machine ## run the whole test suite
	@tools/run-suites

soak: packages-test $(call stamp,test) build machine ## hours: faults and inputs at full length, endless change; SOAK_FLAGS="--minutes 10"
	@status=0; $(BIN)/tox run -q -e property -- --long tests/property || status=$$?; \
	$(BIN)/tox run -q -e fault -- --long tests/fault || status=$$?; \
	$(BIN)/python -m tests.soak.churn --json .build/soak.json $(SOAK_FLAGS) || status=$$?; \
	exit $$status

image-test: packages-image $(call stamp,test) build machine ## build the image without an engine, and run it
	@$(BIN)/tox run -q -e image

lint: packages-test $(call stamp,test) build ## check style, layers and types
	@$(BIN)/tox run -q -e lint,types

format: packages-test $(call stamp,test) ## rewrite the sources in the project's format
	@$(BIN)/tox run -q -e format

bench: packages-bench $(call stamp,bench) build machine ## measure; BENCH_FLAGS="--rounds 5" is quick
	@$(BIN)/python tests/bench $(BENCH_FLAGS)

clean: ## remove all that was built
	@rm -rf .build .tox build dist *.egg-info $(VENV)
	@$(MAKE) -s -C bpf clean

.PHONY: machine packages-build packages-test packages-bench packages-image
machine: packages-build
	@tools/check-machine

packages-build:
	@tools/install-packages build run

packages-test packages-bench: packages-%:
	@tools/install-packages build run $*

packages-image:
	@tools/install-packages build run test image

$(BIN)/python: | packages-build
	@echo "making the virtual environment $(VENV)"
	@tools/logged venv $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) 2>/dev/null; exit 1; }

# Editable, so that the two commands run the checkout; `bpf` builds the objects beside it.
$(call stamp,runtime): extras :=
$(call stamp,test): extras := [test]
$(call stamp,bench): extras := [bench]
$(call stamp,runtime) $(call stamp,test) $(call stamp,bench): | $(BIN)/python
	@echo "installing: Python packages$(if $(extras), $(extras))"
	@KPB_SKIP_BPF=1 PIP_CONSTRAINT=$(CURDIR)/constraints.txt tools/logged pip \
		$(BIN)/python -m pip install --use-pep517 --editable ".$(extras)"
	@touch $@
