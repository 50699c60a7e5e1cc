#!/bin/sh
# Fetches the pinned ONNX Runtime into .runtime/ (or the directory given), out of its wheel on PyPI.
# Needs python3 with pip and about 20 MB from the network. A second run finds the library there and fetches nothing.
#
# Why 1.28.0: the wheels of 1.29 and later bring telemetry that looks up a host name when the library starts.
set -eu

VERSION=1.28.0
LIBRARY=libonnxruntime.so.$VERSION

fail() {
    echo "fetch_onnxruntime: $*" >&2
    exit 1
}

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/../.runtime}

[ "$(uname -s)" = Linux ] ||
    fail "only Linux is served; elsewhere install ONNX Runtime $VERSION yourself and set ORT_DYLIB_PATH to its library"
# The wheel of one CPython is asked for whichever runs here: the library inside is the same, and so its checksum is.
case $(uname -m) in
x86_64) platform=manylinux_2_28_x86_64 sha256=aa4079d18f4ea7a5f3a94d80cd4bbe0f2740436626622d64d793803a20381083 ;;
aarch64) platform=manylinux_2_28_aarch64 sha256=23a37c2994bc273e1d59a4f49af6cba5bf1cfbc29f04907ec27df375aba50a7d ;;
*) fail "there is no wheel for $(uname -m); build ONNX Runtime $VERSION and set ORT_DYLIB_PATH to its library" ;;
esac

is_right() {
    [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status
}

mkdir -p "$target"
target=$(CDPATH= cd -- "$target" && pwd)
if is_right "$target/$LIBRARY" && is_right "$target/libonnxruntime.so.1"; then
    echo "ONNX Runtime $VERSION is in $target"
    exit 0
fi

python3 -m pip --version >/dev/null 2>&1 ||
    fail "python3 with pip is needed (Debian, Ubuntu: apt install python3-pip); or set ORT_DYLIB_PATH to a" \
        "libonnxruntime.so of version 1.17 to 1.28 that you have"

scratch=$(mktemp -d "$target/fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --implementation cp --python-version 3.12 --abi cp312 --platform "$platform" \
    --dest "$scratch" "onnxruntime==$VERSION" ||
    fail "pip could not download onnxruntime $VERSION (its message is above)"
python3 -m zipfile -e "$scratch"/onnxruntime-*.whl "$scratch/wheel"
is_right "$scratch/wheel/onnxruntime/capi/$LIBRARY" ||
    fail "the library in the wheel does not have the SHA-256 that is expected; nothing was installed"

mv -f "$scratch/wheel/onnxruntime/capi/$LIBRARY" "$target/$LIBRARY"
mv -f "$scratch/wheel/onnxruntime/LICENSE" "$target/LICENSE.onnxruntime"
mv -f "$scratch/wheel/onnxruntime/ThirdPartyNotices.txt" "$target/ThirdPartyNotices.onnxruntime.txt"
ln -sf "$LIBRARY" "$target/libonnxruntime.so.1"
echo "ONNX Runtime $VERSION is in $target"
