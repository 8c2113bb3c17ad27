#!/usr/bin/env bash
# Without torch, on every Python of 3.10-3.13 that is here: install the core and Lava into a new environment, then
# simulate on Lava, verify and price the committed example file.
#     tools/check_pythons.sh [VERSION ...]          e.g. tools/check_pythons.sh 3.10 3.13
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

find_python() { # the newest interpreter of version $1: on the PATH, else one of pyenv's
    local candidate
    for candidate in "python$1" $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python 2>/dev/null | sort -rV); do
        if "$candidate" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

checked=0
for version in "${@:-3.10 3.11 3.12 3.13}"; do
    for v in $version; do
        python=$(find_python "$v")
        if [ -z "$python" ]; then
            echo "python $v: not here, skipped"
            continue
        fi
        "$python" -m venv "$work/$v"
        pip=("$work/$v/bin/python" -m pip --disable-pip-version-check install --quiet)
        # from a copy: several environments must not share one build folder
        git -C "$root" checkout-index -a --prefix="$work/source-$v/"
        (
            cd "$work/source-$v"
            "${pip[@]}" -c constraints.txt ".[lava]"
            [ "$v" = 3.10 ] || "${pip[@]}" --no-deps --ignore-requires-python lava-nc==0.10.0
            cd examples
            rmp="$work/$v/bin/rmp-deploy"
            ! "$work/$v/bin/python" -c "import torch" 2>/dev/null || { echo "torch is here: not the check it says"; exit 1; }
            "$rmp" simulate digits.onnx --data digits.npz --backend lava --samples 20 | tail -n 1
            "$rmp" verify digits.onnx --data digits.npz --samples 20 | grep -- '->.*mismatching'
            "$rmp" energy digits.onnx --data digits.npz --profile cmos45 --profile loihi1 --report "$work/$v.html" --json \
                | "$work/$v/bin/python" -c "
import json, sys
energy = json.load(sys.stdin)['energy']
print(*(f\"{p['name']}: {p['joule_per_sample']:.3g} J per sample\" for p in energy['profiles']), sep=', ')"
            [ -s "$work/$v.html" ]
        )
        echo "python $v: ok"
        checked=$((checked + 1))
    done
done
[ "$checked" -gt 0 ] || { echo "error: no Python of 3.10-3.13 found"; exit 1; }
