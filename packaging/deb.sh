#!/bin/sh
# Makes Debian packages of what `make install` installs: deb.sh [DIRECTORY]. Run by `make deb`.
#
# BUILT, WITH_ONNX and CARGO are the Makefile's; DEBFULLNAME and DEBEMAIL name who made the packages, as for dch. The
# same build and the same commit give the same packages, byte for byte.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "deb: $*" >&2
    exit 1
}
for tool in dpkg-deb dpkg-gencontrol dpkg-shlibdeps; do
    command -v "$tool" >/dev/null || fail "$tool is needed (Debian, Ubuntu: apt install dpkg-dev)"
done

mkdir -p "${1:-target/deb}"
out=$(cd "${1:-target/deb}" && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
abi=$(sed -n 's/^#define TGPT_ABI //p' include/trafficgpt.h)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
# Packages of two architectures may be installed together, and the crates of each differ.
crates=crates-$(dpkg-architecture -qDEB_HOST_ARCH).txt
maintainer="${DEBFULLNAME:-The libtrafficgpt authors} <${DEBEMAIL:-libtrafficgpt@example.org}>"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
umask 022
chmod 755 "$work"

make --silent install DESTDIR="$work/tree" PREFIX=/usr LIBDIR="/usr/lib/$multiarch" \
    ZSHDIR=/usr/share/zsh/vendor-completions ONNXDIR=/usr/lib/trafficgpt \
    BUILT="${BUILT:-target/release}" WITH_ONNX="${WITH_ONNX:-}"
strip --strip-unneeded --remove-section=.comment --remove-section=.note \
    "$work/tree/usr/bin/trafficgpt" "$work/tree/usr/lib/$multiarch/libtrafficgpt.so.$version"
strip --strip-debug --enable-deterministic-archives "$work/tree/usr/lib/$multiarch/libtrafficgpt.a"
gzip -9n "$work"/tree/usr/share/man/man1/*

# package NAME PATH...: takes the paths out of the tree.
package() {
    name=$1
    shift
    packages="$packages $name"
    for path in "$@"; do
        for file in "$work"/tree/$path; do
            to=$work/$name/${file#"$work/tree/"}
            mkdir -p "$(dirname "$to")"
            mv "$file" "$to"
        done
    done
}
packages=
package "libtrafficgpt$abi" "usr/lib/$multiarch/libtrafficgpt.so.*"
package libtrafficgpt-dev usr/include "usr/lib/$multiarch"
package trafficgpt usr/bin usr/share
if [ -n "${WITH_ONNX:-}" ]; then
    package libtrafficgpt-onnxruntime usr/lib/trafficgpt
fi
left=$(find "$work/tree" -not -type d)
[ -z "$left" ] || fail "no package takes $left"

# What all packages carry.
mkdir "$work/debian"
sed -e "s|@MAINTAINER@|$maintainer|" -e "s|@ABI@|$abi|" packaging/deb/control > "$work/debian/control"
cat > "$work/debian/changelog" <<EOF
trafficgpt ($version-1) unstable; urgency=medium

  * Made from the sources of $version; what changed is in changelog.gz.

 -- $maintainer  $(date -R -u -d "@$SOURCE_DATE_EPOCH")
EOF
sed -n '/^Permission/,$p' LICENSE-MIT | sed -e 's/^$/./' -e 's/^/ /' > "$work/mit"
sed -e "/^@MIT@\$/{r $work/mit
d}" packaging/deb/copyright > "$work/copyright"
"${CARGO:-cargo}" tree --locked --features train --edges normal,no-proc-macro --prefix none --format '{p} {l}' |
    sed -e 's/ (\*)$//' -e '/^trafficgpt /d' | sort -u > "$work/$crates"

for name in $packages; do
    root=$work/$name
    doc=$root/usr/share/doc/$name
    mkdir -p "$root/DEBIAN" "$doc"
    cp "$work/copyright" "$work/$crates" "$doc"
    gzip -9nc CHANGELOG.md > "$doc/changelog.gz"
    gzip -9nc "$work/debian/changelog" > "$doc/changelog.Debian.gz"
    case $name in
    "libtrafficgpt$abi")
        echo "libtrafficgpt $abi $name (>= $version)" > "$root/DEBIAN/shlibs"
        echo "activate-noawait ldconfig" > "$root/DEBIAN/triggers"
        ;;
    libtrafficgpt-dev)
        mkdir "$doc/examples"
        cp examples/c/*.c "$doc/examples"
        ;;
    libtrafficgpt-onnxruntime)
        rm "$doc/$crates"
        mv "$root"/usr/lib/trafficgpt/*.txt "$doc"
        gzip -9n "$doc"/*.txt
        mv "$root/usr/lib/trafficgpt/LICENSE.onnxruntime" "$doc/copyright"
        ;;
    esac
    (
        cd "$work"
        substvars=debian/$name.substvars
        : > "$substvars"
        find "$name" -type f \( -path '*/bin/*' -o -name '*.so.*' \) -print0 |
            xargs -0r dpkg-shlibdeps --warnings=0 -T"$substvars"
        dpkg-gencontrol -p"$name" -T"$substvars" -P"$name" -fdebian/files
        cd "$name"
        find . -type f -not -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' md5sum > DEBIAN/md5sums
    )
    find "$root" -type d -exec chmod 755 {} +
    dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
done
cd "$out"
ls -- $(sed 's/ .*//' "$work/debian/files")
