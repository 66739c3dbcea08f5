#!/bin/bash
# Sets up what meterwatch needs to run from a clone, and removes it again. Called by the Makefile:
#   setup.sh python   the environment .venv with the locked dependencies
#   setup.sh all      that, and TimescaleDB (storage/embedded decides where from)
#   setup.sh lock     rewrites requirements.lock
#   setup.sh wheels DIR   puts the locked packages and meterwatch itself there, to be installed without a network
#   setup.sh clean    removes everything that the others made
# It writes to .venv and to the directories that `storage.embedded` names, and installs nothing into the system.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
STAMP=$VENV/.meterwatch-installed
MINIMUM="3, 11"

fail() {
    echo "meterwatch: $*" >&2
    exit 1
}

# A pyenv shim or a broken link answers to its name and does not run: only running tells.
find_python() {
    local name
    for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3 /usr/bin/python3; do
        if "$name" -c "import sys; sys.exit(sys.version_info < ($MINIMUM))" >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    fail "no Python >= 3.11 found; on Debian: apt install python3 python3-venv (or set PYTHON=/path/to/python3)."
}

# What the environment was made from; a change of any of it makes it anew.
fingerprint() {
    sha256sum requirements.lock pyproject.toml tools/setup.sh
    pwd
}

installed() {
    [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && "$VENV/bin/python" -c "" 2>/dev/null
}

# Debian splits ensurepip into python3-venv. Without it: an environment without pip, served by a pip from elsewhere.
make_venv() {
    local python=$1
    rm -f "$STAMP"
    if [ -d "$VENV" ] && ! "$VENV/bin/python" -c "import sys; sys.exit(sys.version_info < ($MINIMUM))" 2>/dev/null; then
        rm -rf "$VENV" # of an interpreter that is gone
    fi
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    echo "Making a Python environment in $VENV ($("$python" --version))"
    if "$python" -m venv "$VENV" >/dev/null 2>&1; then
        return
    fi
    rm -rf "$VENV"
    if "$python" -m virtualenv -q "$VENV" >/dev/null 2>&1; then
        return
    fi
    "$python" -m venv --without-pip "$VENV" >/dev/null 2>&1 ||
        fail "Python cannot make an environment in $(pwd)/$VENV; is the directory writable, and is python3-venv installed?"
}

# Sets the array PIP: the environment's own pip, the system's (>= 22.3 can serve another Python), or Debian's wheel.
choose_pip() {
    local python=$1 unpacked=$VENV/pip-wheel
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        PIP=("$VENV/bin/python" -m pip)
    elif "$python" -m pip --python "$VENV/bin/python" --version >/dev/null 2>&1; then
        PIP=("$python" -m pip --python "$VENV/bin/python")
    elif mkdir -p "$unpacked" && (cd "$unpacked" && apt-get -q download python3-pip-whl && dpkg-deb -x ./*.deb .) >/dev/null 2>&1; then
        PIP=("$VENV/bin/python" "$(echo "$unpacked"/usr/share/python-wheels/pip-*.whl)/pip")
    else
        fail "pip is missing for $("$python" --version); on Debian: apt install python3-venv"
    fi
}

# pip, a line for each package, and its errors with the file that has not the hash it should.
pip_install() {
    "${PIP[@]}" install --disable-pip-version-check --no-input --progress-bar off "$@" 2>&1 |
        awk '/^Collecting/ { printf "  %s\n", $2; fflush(); next }
             /^(ERROR|error|  *ERROR)|^    .* from .*:$|^ +(Expected|Got) / { print; fflush() }
             /^Successfully installed/ { print "  done"; fflush() }' ||
        fail "the Python packages could not be installed, see above; is there a package index in reach, with the very files of requirements.lock?"
}

setup_python() {
    installed && return
    [ -w . ] || fail "$(pwd) cannot be written to: clone the project to a directory of your own."
    exec 9>.setup.lock
    if command -v flock >/dev/null; then
        flock 9 # a second make waits here, and then finds the work done
    fi
    installed && return
    local python
    python=$(find_python)
    make_venv "$python"
    choose_pip "$python"
    echo "Installing $(grep -c == requirements.lock) locked Python packages into $VENV (about 150 MB, once)"
    pip_install --require-hashes --only-binary :all: -r requirements.lock
    choose_pip "$python" # the lock brings pip itself
    echo "Installing meterwatch from this directory"
    pip_install --no-deps --no-build-isolation --no-index -e .
    fingerprint >"$STAMP"
    exec 9>&-
}

wheels() {
    rm -rf build # what a build before has left there would be in the wheel
    "$VENV/bin/python" -m pip download --disable-pip-version-check --quiet --require-hashes --only-binary :all: \
        --dest "$1" -r requirements.lock
    "$VENV/bin/python" -m pip wheel --disable-pip-version-check --quiet --no-deps --no-index --no-build-isolation \
        --wheel-dir "$1" .
    echo "Wheels of meterwatch and its locked packages are in $1 ($("$VENV/bin/python" --version))"
}

lock() {
    {
        echo "# Exact versions and hashes of every dependency, made by \`make lock\`. Wheels only, any index."
        "$VENV/bin/pip-compile" --generate-hashes --extra dev --strip-extras --allow-unsafe --no-header --quiet \
            --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --upgrade \
            --output-file - pyproject.toml
    } >requirements.lock.new
    mv requirements.lock.new requirements.lock
}

clean() {
    if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c "import psycopg" 2>/dev/null; then
        "$VENV/bin/python" -m storage.embedded clean
    else
        echo "No $VENV, so the embedded database was not looked for (make setup, then make clean, removes it)"
    fi
    local path
    for path in "$VENV" .setup.lock meterwatch.egg-info build .mypy_cache .ruff_cache .pytest_cache .hypothesis \
        .import_linter_cache wheels; do
        if [ -e "$path" ]; then
            rm -rf "$path"
            echo "Removed $(pwd)/$path"
        fi
    done
    find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
}

case ${1:-} in
    python) setup_python ;;
    all)
        setup_python
        "$VENV/bin/python" -m storage.embedded provision --quiet
        ;;
    lock) lock ;;
    wheels) wheels "${2:?a directory is missing}" ;;
    clean) clean ;;
    *) fail "usage: tools/setup.sh python | all | lock | wheels DIR | clean" ;;
esac
