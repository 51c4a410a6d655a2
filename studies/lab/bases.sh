#!/bin/sh
# Train the base models of the laboratory that FOLDER does not hold yet, WORKERS at a time; the last two are the prospective part's.
#   sh studies/lab/bases.sh FOLDER [WORKERS [NAME ...]]
set -eu
folder=$1 workers=${2:-2}
[ $# -gt 2 ] && { shift 2; names=$*; } || names="l4-behaved-s0 l4-behaved-s1 l4-plain-s0 l4-plain-s1 l5-behaved-s0 l5-behaved-s1 l5-plain-s0 l5-plain-s1 l5-behaved-s2 l4-plain-s2"
export OMP_NUM_THREADS=1
for name in $names; do
    case $name in l4-*) size="layers=4 --set tokens=11_000_000" ;; *) size="layers=5 --set tokens=9_000_000" ;; esac
    case $name in *-behaved-*) behaviors=0.1 ;; *) behaviors=0 ;; esac
    [ -e "$folder/$name" ] || echo "--set name=$name --set $size --set behaviors=$behaviors --set seed=${name##*-s} --set output=$folder/$name"
done | xargs -r -P "$workers" -L 1 train base studies/lab/base.yaml --home "$folder/home"
