#!/usr/bin/env bash
# Prepares .venv in this clone for the commands and the tests; run by demo.sh and test.sh.
# Needs Debian or Ubuntu with Python 3.11 or 3.12 and nothing else. System packages that are
# missing are installed when root, else the line to type is printed.
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# The simulator needs numpy 1.26, whose wheels exist up to Python 3.12; our code needs 3.11.
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3 python; do
        if supported "$candidate"; then command -v "$candidate"; return; fi
    done
}

has_library() {
    "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null
}

# Prints the Debian packages that are missing for $python and for rendering without a display.
missing_packages() {
    local version headers
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    # robosuite needs evdev, which is compiled at install: compiler, Python and kernel headers.
    command -v cc >/dev/null || echo gcc
    [ -f /usr/include/linux/input.h ] && [ -f /usr/include/stdlib.h ] || echo libc6-dev
    [ -f "$headers/Python.h" ] || echo "python$version-dev"
    has_library libEGL.so.1 || echo libegl1
    has_library libGL.so.1 || echo libgl1
    # robosuite imports OpenCV, which needs GLib.
    has_library libgthread-2.0.so.0 || echo libglib2.0-0
    # libegl1 alone is only a dispatcher: without a vendor's driver there is no display.
    compgen -G '/usr/share/glvnd/egl_vendor.d/*.json' >/dev/null || echo libegl-mesa0
    compgen -G '/usr/share/glvnd/egl_vendor.d/*nvidia*.json' >/dev/null ||
        compgen -G '/usr/lib/*/dri/*_dri.so' >/dev/null || echo libgl1-mesa-dri
}

apt_install() {
    if ! command -v apt-get >/dev/null; then
        stop "these are missing and there is no apt-get; install the equivalents of: $*"
    elif [ "$(id -u)" = 0 ]; then
        say "installing system packages: $*"
        local log
        log=$(mktemp)
        { apt-get update && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 ||
            { tail -n 20 "$log" >&2; stop "apt-get failed; its last lines are above"; }
        rm -f "$log"
    else
        stop "system packages are missing; type this line, then start again:
    sudo apt-get update && sudo apt-get install -y $*"
    fi
}

# An interpreter from a version manager brings its own headers; Debian's comes without.
python=$(find_python)
if [ -z "$python" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt_install python3 python3-venv python3-dev
        python=$(find_python)
    fi
    [ -n "$python" ] || stop "no Python 3.11 or 3.12 found (looked for \$PYTHON, python3.11, \
python3.12, python3); on Debian 12 or Ubuntu 24.04: sudo apt-get install python3 python3-venv python3-dev"
fi

venv=$PWD/.venv
stamp=$venv/.ready
# What a ready .venv was made from: dependencies, versions, interpreter and this place.
wanted=$( { cat pyproject.toml embodied/known_good.txt; echo "$PWD"; "$python" -VV; } | sha256sum | cut -d' ' -f1)

if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$venv/bin/embodied" ]; then
    exit 0
fi

mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" = 0 ] || apt_install "${packages[@]}"

free_mib=$(df -Pm . | awk 'NR == 2 {print $4}')
[ "$free_mib" -ge 4000 ] || stop "only $free_mib MiB free at $PWD; the packages need about 4000"

say "making .venv with $("$python" -V) (2.5 GB with a CPU torch, 7 GB with CUDA; one to three minutes)"
rm -rf "$venv"
"$python" -m venv "$venv" || stop "could not make $venv with $python"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install -qq)
if ! "${pip[@]}" -c embodied/known_good.txt -e '.[learn,sim,vlm,export,serve,dev]'; then
    say "the known-good versions could not be installed; trying what pyproject.toml allows"
    "${pip[@]}" -e '.[learn,sim,vlm,export,serve,dev]' || stop "pip failed; its message is above"
fi
echo "$wanted" > "$stamp"
say "ready"
