#!/bin/bash
# xrun.sh ROOT QEMU [NAME=VALUE...] -- COMMAND...: run a command inside ROOT (see mkroot.sh).
# QEMU: aarch64 s390x arm i386 ppc64le riscv64 mips64el loongarch64 x86_64, or "-" for the machine itself ("-32": as 32 bits).
# Needs no root: a user, mount and process namespace with a binfmt_misc of its own (Linux >= 6.7), so that child processes
# are emulated as well.  QEMU_DIR: where QEMU's user programs are; QEMU_CPU: its CPU model; BIND="HOST:GUEST ...": mounts.
set -euo pipefail
root=$(realpath "$1") qemu=$2
shift 2
while [ "$1" != "--" ]; do export "${1?}"; shift; done
shift
export QEMU_DIR=${QEMU_DIR:-/usr/bin} BIND=${BIND:-} root qemu
libraries=$(find "$root/usr/lib" -maxdepth 1 -name '*-linux-gnu*' | sort | head -n 1)
export libraries=/usr/lib/${libraries##*/}
exec unshare --kill-child=KILL --user --map-root-user --mount --pid --fork bash -c '
  set -e
  mkdir -p $root/{proc,dev,tmp}
  mount --rbind /dev $root/dev; mount -t proc proc $root/proc; mount -t tmpfs tmpfs $root/tmp
  for bind in $BIND; do mkdir -p "$root${bind#*:}"; mount --bind "${bind%%:*}" "$root${bind#*:}"; done
  before= inside=
  case $qemu in
    -) ;;
    -32) before="setarch i686" ;;
    x86_64) # the machine own architecture cannot go through binfmt: the emulator would be emulated
      touch $root/tmp/qemu; mount --bind $QEMU_DIR/qemu-x86_64 $root/tmp/qemu; inside=/tmp/qemu ;;
    *)
      mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
      case $qemu in # EI_CLASS, EI_DATA and e_machine, in the byte order of the target
        aarch64) c=02 d=01 m="\xb7\x00";; arm) c=01 d=01 m="\x28\x00";; i386) c=01 d=01 m="\x03\x00";;
        ppc64le) c=02 d=01 m="\x15\x00";; riscv64) c=02 d=01 m="\xf3\x00";;
        loongarch64) c=02 d=01 m="\x02\x01";; mips64el) c=02 d=01 m="\x08\x00";; s390x) c=02 d=02 m="\x00\x16";;
      esac
      [ $d = 02 ] && type="\x00\x02" mask="\xff\xfe" || { type="\x02\x00"; mask="\xfe\xff"; }
      printf "%s" ":x:M::\\x7fELF\\x$c\\x$d\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00$type$m:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfc\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff$mask\\xff\\xff:$QEMU_DIR/qemu-$qemu:OPF" \
        > /proc/sys/fs/binfmt_misc/register ;;
  esac
  cd $root
  export LD_LIBRARY_PATH=$libraries/openblas-pthread:$libraries/blas:$libraries/lapack
  # No exec: the first process of a namespace outlives deadly signals, and QEMU would wait for its death for ever.
  $before chroot $root $inside "$@" || exit $?' bash "$@"
