#!/bin/sh
# Raises the size limits of network devices that are given by their interface index; runs in the Docker host's
# network namespace, with iproute2 6.3 or newer.
#
# The eth0 of a kind node is one end of a veth pair; the other is a port of a bridge on the Docker host, where no
# agent of Cilium can reach it. At its 65,536 bytes the kernel (from 6.7 on) cuts every larger packet into segments
# on the way, which makes BIG TCP slower than none.
set -eu

# What Cilium sets on the nodes' own devices.
size=196608

for index in "$@"; do
  device=
  # Folders only: with bonding there is a file, too.
  for folder in /sys/class/net/*/; do
    if [ "$(cat "$folder/ifindex")" = "$index" ]; then
      device=$(basename "$folder")
    fi
  done
  if [ -z "$device" ]; then
    echo "the Docker host has no network device with the index $index" >&2
    exit 1
  fi
  # In this order: with the first two at or below 65,536 the kernel would not keep the others above it.
  ip link set dev "$device" gso_max_size "$size" gro_max_size "$size"
  ip link set dev "$device" gso_ipv4_max_size "$size" gro_ipv4_max_size "$size"
  found=$(ip -d link show dev "$device" | tr '\n' ' ')
  for name in gso_max_size gro_max_size gso_ipv4_max_size gro_ipv4_max_size; do
    case "$found" in
      *" $name $size "*) ;;
      *) echo "$device did not take $name $size" >&2; exit 1 ;;
    esac
  done
  echo "$device takes packets of $size bytes"
done
