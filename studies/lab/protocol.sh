#!/bin/sh
# Run the parts of the study in the order of PROTOCOL.md; what is done is skipped.
#   sh studies/lab/protocol.sh HOME [WORKERS] [PART ...]
# The prospective part has two halves and is named each time: forecasts are made and committed between `candidates` and `results`.
# `smoke` is no part of it: two of the first checkpoints, to see that they come out again.
set -eu
home=$1 workers=${2:-2}
[ $# -gt 2 ] && { shift 2; parts=$*; } || parts="core starts behaviors twins seeds doses groups random converged rates"
part() { train study studies/lab/protocol.yaml --home "$home" --workers "$workers" "$@"; }
# One checkpoint of each setting on every base: two length mixes stay close to the base, two settings damage it.
strata='[{variant: vary-768, sft.epochs: 2}, {variant: long-1536, sft.epochs: 4, sft.learning_rate: 0.006},
         {variant: short-96, sft.epochs: 16, sft.learning_rate: 0.003}, {variant: vary-96, sft.epochs: 32, sft.learning_rate: 0.006}]'
# An intact and a damaged checkpoint a base, with other settings of the RL.
pairs() {
    printf '['
    for rl in "$@"; do
        printf '{variant: vary-768, sft.epochs: 2, %s}, {variant: vary-96, sft.epochs: 32, sft.learning_rate: 0.006, %s}, ' "$rl" "$rl"
    done
    printf ']'
}
# Six cells that no other part has, on two new bases (BASES, where bases.sh put them) and two old ones.
prospective() {
    part --set "bases=[${BASES:?the folder of the two new bases}/l5-behaved-s2, $BASES/l4-plain-s2, l4-behaved-s1, l5-plain-s0]" --set sft.epochs=8 --set "include=[
        {variant: vary-256, sft.learning_rate: 0.001}, {variant: short-256, sft.learning_rate: 0.001}, {variant: long-256, sft.learning_rate: 0.001},
        {variant: vary-256, sft.learning_rate: 0.004}, {variant: short-256, sft.learning_rate: 0.004}, {variant: long-256, sft.learning_rate: 0.004}]" "$@"
}
# A run rounds as its processor's vectors do: the first ones and the doses were made with AVX-512, all others with AVX2, which a processor that has both can be told to use.
vectors() { if grep -qw avx512f /proc/cpuinfo 2>/dev/null; then export ATEN_CPU_CAPABILITY="$1"; fi; }
for name in $parts; do
    case $name in smoke | doses) vectors avx512 ;; *) vectors avx2 ;; esac
    case $name in
    smoke) train study studies/lab/study.yaml --home "$home" --workers "$workers" --set "bases=[l4-behaved-s0]" \
        --set "include=[{variant: vary-384, sft.learning_rate: 0.006, sft.epochs: 4}, {variant: short-768, sft.epochs: 2}]" ;;
    core) part ;;
    starts) part --set "include=[{variant: base}]" ;;
    behaviors) part --set "include=[{variant: vary-384, sft.epochs: 4}, {variant: bridge-384, sft.epochs: 4}, {variant: filler-384, sft.epochs: 4},
        {variant: reflect-384, sft.epochs: 4}, {variant: bridge-96, sft.epochs: 16, sft.learning_rate: 0.003},
        {variant: filler-96, sft.epochs: 16, sft.learning_rate: 0.003}]" ;;
    twins) part --set "seeds.data=[2]" ;;
    seeds) part --set "include=$strata" --set "seeds.rl=[0,1,2,3]" ;;
    doses) part --set "bases=[l4-behaved-s0, l4-plain-s0, l5-behaved-s0, l5-plain-s1]" --set "include=[{variant: vary-96, sft.epochs: 1},
        {variant: vary-192, sft.epochs: 1}, {variant: vary-384, sft.epochs: 1}, {variant: vary-1536, sft.epochs: 1},
        {variant: vary-3072, sft.epochs: 1}, {variant: vary-6144, sft.epochs: 1}]" ;;
    groups) part --set "include=$(pairs 'grpo.group_size: 8, grpo.problems: 48' 'grpo.group_size: 32, grpo.problems: 12')" ;;
    random) part --set "include=[{variant: vary-768, sft.epochs: 2, grpo.reward: random}]" ;;
    converged) part --set "include=$(echo "$strata" | sed 's/}/, grpo.steps: 256, grpo.keep_steps: [32, 64, 128]}/g')" ;;
    candidates) prospective --stages build,sft,signals ;;
    results) prospective ;;
    rates) part --set "include=$(pairs 'grpo.learning_rate: 0.0003' 'grpo.learning_rate: 0.0012')" ;;
    *) echo "unknown part $name" >&2; exit 2 ;;
    esac
done
