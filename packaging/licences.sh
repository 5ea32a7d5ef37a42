#!/bin/sh
# Prints the licence texts of all modules that are linked into the programs in bin/, which
# most of them ask for. Needs GO in the environment.
set -eu

"$GO" version -m bin/* | sed -nE 's/^\tdep\t([^\t]+)\t.*/\1/p' | sort -u | while read -r module; do
	dir=$("$GO" list -m -f '{{.Dir}}' "$module")
	for file in "$dir"/LICENSE* "$dir"/COPYING* "$dir"/NOTICE*; do
		[ ! -f "$file" ] || printf '== %s: %s\n\n%s\n\n' "$module" "$(basename "$file")" "$(cat "$file")"
	done
done
