#!/usr/bin/env bash
# Set up an environment and check in it everything that needs a GPU; `make gpu-check` calls this. The
# options of benchmarks/gpu_check.py are passed on. The time of the set-up is a part of the ten minutes.
#
#   OWN_TORCH=1                use the torch and numpy of this machine (see own_torch.sh)
#   WHEELHOUSE=DIR             install from this folder of wheels; by default from ./wheelhouse, if it
#                              is complete and there is no environment yet
# and the settings of setup_env.sh.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/python_env.sh
. "$ROOT/tools/python_env.sh"
cd "$ROOT"

began=$(date +%s)
if [ -n "${OWN_TORCH:-}" ]; then
    export VENV=${OWN_VENV:-.venv-own-torch}
    bash tools/own_torch.sh
else
    export VENV=${VENV:-.venv}
    if [ -z "${WHEELHOUSE+set}" ] && [ ! -e "$VENV/.fairtale-setup" ] &&
        [ -f wheelhouse/requirements.txt ]; then
        say "installing from the folder wheelhouse"
        export WHEELHOUSE=wheelhouse
        # the extras that it was made with, so that pytest and transformers are there if they can be
        EXTRAS=${EXTRAS-$(sed -n "s/.*extras '\([^']*\)'.*/\1/p" wheelhouse/.settings 2>/dev/null || true)}
        export EXTRAS
    fi
    bash tools/setup_env.sh
fi
bin=$(cd "$VENV/bin" && pwd)
export PATH="$bin:$PATH"
exec "$bin/python" benchmarks/gpu_check.py --began "$began" "$@"
