#!/bin/bash
# mkroot.sh ARCH SUITE ROOT PACKAGE...: unpack packages of a foreign Debian architecture, and what they depend on, into ROOT.
# Needs neither root nor debootstrap, and runs no maintainer script: only the apt sources and keyring that this machine has.
# WORK keeps the downloads.  STUBS: packages that are taken for installed, for hard dependencies that nobody here needs.
set -euo pipefail
arch=$1 suite=$2 root=$3
shift 3
cache=$WORK/cache state=$WORK/cache/$suite-$arch debs=$WORK/cache/debs
mkdir -p "$state"/{lists/partial,etc/sources.list.d,etc/preferences.d,etc/apt.conf.d,dpkg,none/partial} "$debs/partial" "$root"
: > "$state/dpkg/status"
for name in ${STUBS:-}; do
  printf 'Package: %s\nStatus: install ok installed\nMaintainer: x\nArchitecture: %s\nMulti-Arch: same\nVersion: 99:9\nDescription: stub\n\n' \
    "$name" "$arch" >> "$state/dpkg/status"
done
# The first stanza of the machine's own sources, with another suite and architecture.
awk -v suite="$suite" -v RS= 'NR == 1 { gsub(/Suites:[^\n]*/, "Suites: " suite); print }' \
  /etc/apt/sources.list.d/debian.sources > "$state/etc/sources.list.d/x.sources"
options=(
  -o Dir::Etc="$state/etc" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::trustedparts=/etc/apt/trusted.gpg.d/
  -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/dpkg/status"
  -o Dir::Cache="$state" -o Dir::Cache::archives="$debs" -o APT::Architecture="$arch" -o APT::Architectures="$arch"
  -o APT::Install-Recommends=false -o Acquire::Languages=none -o APT::Sandbox::User=root
  -o Binary::apt-get::APT::Keep-Downloaded-Packages=true -qq
)
if [ -z "$(find "$state/stamp" -mmin -1440 2> /dev/null)" ]; then
  apt-get "${options[@]}" update > "$state/update.log" 2>&1 || {
    grep -m 1 '^E:' "$state/update.log" | sed 's/ [^ ]*:[^ ]*\// /; s/ \[IP.*//' >&2
    exit 1
  }
  touch "$state/stamp"
fi
# An empty archive folder for the resolving: files that lie in the cache already would not be listed.
apt-get "${options[@]}" -o Dir::Cache::archives="$state/none" -y --print-uris install "$@" \
  | sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p" | sort > "$state/names"
apt-get "${options[@]}" -y --download-only install "$@" > "$state/download.log" 2>&1 || { tail -n 3 "$state/download.log" >&2; exit 1; }
for folder in bin sbin lib lib64; do # merged /usr
  mkdir -p "$root/usr/$folder"
  [ -e "$root/$folder" ] || ln -s "usr/$folder" "$root/$folder"
done
while read -r name; do
  dpkg-deb --fsys-tarfile "$debs/$name" | tar -C "$root" -x --no-same-owner --keep-directory-symlink \
    --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/zoneinfo/*'
done < "$state/names"
