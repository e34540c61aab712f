#!/bin/sh
# Runs a libFuzzer program for a bounded time, from the corpus beside this file when there is one.
set -eu
program=$1
shift
found=$(dirname "$0")/corpus
set -- "$@" -max_total_time="${SBX_FUZZ_SECONDS:-20}" -artifact_prefix="$(dirname "$program")/"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -d "$found" ]; then
    "$program" "$@" "$work" "$found"
else
    "$program" "$@" "$work"
fi
