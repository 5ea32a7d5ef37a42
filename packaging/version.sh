#!/bin/sh
# Prints the version of a Debian package for the commit that is checked out:
# 1.2.3 for the tag v1.2.3, 1.2.3+git5.abcdef0 five commits later, and before the
# first tag 0.0.0+git123.abcdef0; with +dirty where files were changed. Each
# sorts after the one before it.
set -eu

describe=$(git describe --tags --long --dirty --abbrev=7 --match 'v[0-9]*' 2>/dev/null) || {
	describe=v0.0.0-$(git rev-list --count HEAD)-g$(git rev-parse --short=7 HEAD)
	git diff --quiet HEAD || describe=$describe-dirty
}
# A tag such as v1.2.0-rc1 is before its release: Debian sorts 1.2.0~rc1 before 1.2.0.
printf '%s\n' "$describe" | sed -E \
	-e 's/^v//' \
	-e 's/-dirty$/+dirty/' \
	-e 's/-0-g[0-9a-f]+(\+dirty)?$/\1/' \
	-e 's/-([0-9]+)-g([0-9a-f]+)(\+dirty)?$/+git\1.\2\3/' \
	-e 's/-/~/g'
