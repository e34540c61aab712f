# The door to the project: each word prepares what it needs. Everything is done by tests/support/setup.sh.

DO := sh tests/support/setup.sh

.DEFAULT_GOAL := help
.PHONY: help setup run test coverage lint bench bench-vm soak native fuzz containment vm vm-processors vm-systemd clean

help:
	@echo "make run     build sbx and run one command in a sandbox, as an unprivileged user"
	@echo "make test    lint, C tests with sanitizers, every Python test, and all guests"
	@echo "make setup   install what is missing, build, and install sbx into a virtual environment"
	@echo "make coverage  the Python tests again, each process measured: branch coverage (half as fast)"
	@echo "make lint    ruff, mypy --strict"
	@echo "make native  C tests with AddressSanitizer and UBSan, and a short fuzz of the decoder"
	@echo "make fuzz    a longer fuzz of the decoder (FUZZ_SECONDS, default 300) and of all Python readers"
	@echo "make containment  run the probe under sbx and its peers, write docs/containment.md"
	@echo "make soak    thousands of runs, hundreds at once, storms of kills (SBX_SOAK, default 20 times make test's)"
	@echo "make bench   time sbx beside bwrap, crun, firejail and podman where they are installed"
	@echo "make bench-vm  what control groups add to a start, in the guests of make vm and make vm-systemd"
	@echo "make vm      the tests of escapes, of the kernel and of control groups, on the kernel of User-Mode Linux"
	@echo "make vm-processors  processors, weights of disks, faults of networks, on an emulated machine"
	@echo "make vm-systemd  scopes of the user's systemd, in a second guest (as root)"
	@echo "make clean   remove what was built"

setup:
	@$(DO) packages-run user venv build where

run:
	@$(DO) packages-run user venv build demo

test:
	@$(DO) packages-test user venv-dev build lint native debian tests

coverage:
	@$(DO) packages-test user venv-dev build debian coverage

lint:
	@$(DO) venv-dev lint

native:
	@$(DO) packages-test venv-dev native

fuzz:
	@$(DO) packages-test user venv-dev build fuzz

containment:
	@$(DO) packages-run packages-peers user venv-dev build containment

vm:
	@$(DO) packages-test user venv-dev build vm

soak:
	@$(DO) packages-test user venv-dev build soak

vm-processors:
	@$(DO) packages-test user venv-dev build vm-processors

vm-systemd:
	@$(DO) packages-test user venv-dev build vm-systemd

bench:
	@$(DO) packages-test user venv build debian bench

bench-vm:
	@$(DO) packages-test user venv build bench-vm

clean:
	@$(DO) clean
