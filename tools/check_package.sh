#!/usr/bin/env bash
# Build sdist and wheel, and try in clean environments what a user would do with them.
# Usage: tools/check_package.sh PYTHON   (one that has `build` installed)
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "packaging: $*" >&2
    exit 1
}

# Plugins that cannot be imported only vanish from the list, so the list is what counts.
lists_both_plugins() {
    local listing
    listing=$(cd "$scratch/elsewhere" && "$1/bin/twistd" --help)
    for plugin in flow512-registry flow512-node; do
        grep -q "^ *$plugin " <<<"$listing" || fail "$2: twistd --help does not list $plugin"
    done
    (cd "$scratch/elsewhere" && "$1/bin/flow512" --version)
}

mkdir "$scratch/dist" "$scratch/elsewhere"
# From a copy: a build leaves folders behind that the next one would take its files from.
mkdir "$scratch/tree"
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' path; do [[ -e $path ]] && printf '%s\0' "$path"; done |
    tar --null -T - -c | tar -x -C "$scratch/tree"
"$python" -m build --outdir "$scratch/dist" "$scratch/tree" >"$scratch/build.log" 2>&1 ||
    { tail -n 30 "$scratch/build.log" >&2; fail "the build failed"; }
wheel=$(echo "$scratch"/dist/*.whl)
sdist=$(echo "$scratch"/dist/*.tar.gz)
echo "built $(basename "$sdist") and $(basename "$wheel")"

names=$("$python" -m zipfile -l "$wheel" | awk 'NR > 1 {print $1}')
for name in flow512/py.typed twisted/plugins/flow512_dropin.py; do
    grep -qxF "$name" <<<"$names" || fail "the wheel lacks $name"
done
for name in twisted/__init__.py twisted/plugins/__init__.py; do
    ! grep -qxF "$name" <<<"$names" || fail "the wheel has $name, which would replace Twisted's own"
done

"$python" -m venv "$scratch/wheel"
"$scratch/wheel/bin/pip" install --disable-pip-version-check --quiet "$wheel"
lists_both_plugins "$scratch/wheel" "installed from the wheel"

# The command that the README tells developers to use, word for word, in what the sdist holds.
mkdir "$scratch/source"
tar -xzf "$sdist" -C "$scratch/source" --strip-components=1
command=$(grep -om1 'pip install [^`]*-e [^`]*' README.rst) ||
    fail "README.rst shows no pip install -e command"
"$python" -m venv "$scratch/editable"
(cd "$scratch/source" && PATH="$scratch/editable/bin:$PATH" bash -c "$command --quiet")
lists_both_plugins "$scratch/editable" "installed by '$command'"

echo "packaging: wheel and editable install keep both plugins"
