#!/bin/sh
# Train the base models of the laboratory that FOLDER does not hold yet, WORKERS at a time.
#   sh studies/lab/bases.sh FOLDER [WORKERS]
set -eu
folder=$1 workers=${2:-2}
export OMP_NUM_THREADS=1
for layers in 4 5; do
    for mixture in behaved plain; do
        for seed in 0 1; do
            name=l$layers-$mixture-s$seed
            [ "$layers" = 4 ] && tokens=11_000_000 || tokens=9_000_000
            [ "$mixture" = behaved ] && behaviors=0.1 || behaviors=0
            [ -e "$folder/$name" ] || echo "--set name=$name --set layers=$layers --set tokens=$tokens --set behaviors=$behaviors --set seed=$seed --set output=$folder/$name"
        done
    done
done | xargs -r -P "$workers" -L 1 train base studies/lab/base.yaml --home "$folder/home"
