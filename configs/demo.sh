#!/bin/sh
# The main job: curate, SFT, measure, forecast; then GRPO, measure, compare.
#   sh configs/demo.sh [HOME] [SEED] [WORKERS]
set -eu
home=${1:-forerun} seed=${2:-0} workers=${3:-2}
began=$(date +%s)
say() { printf '\n== %4d s  %s\n' "$(($(date +%s) - began))" "$1"; }
study() { train study configs/demo.yaml --home "$home" --workers "$workers" --set "seeds.data=[$((100 + seed))]" "$@"; }

say "Four fresh SFT checkpoints: curate, train, measure held-out loss and pass@1..64"
study --stages build,sft,signals
say "What is known so far: the packed checkpoints of studies/lab with their RL outcomes"
predict ingest studies/lab/runs --home "$home"
say "Forecast: written down before any RL is run on the four"
waiting=$(predict sql --home "$home" --format csv "SELECT count(*) FROM checkpoints WHERE outcome_pass_at_1 IS NULL" | tail -1)
if [ "$waiting" -gt 0 ]; then predict rank --home "$home"; else echo "All four were forecast and run before; SEED=1 takes four others."; fi
say "RL: GRPO on each of them, then pass@1 on problems that no signal was measured on"
study
say "Forecast beside result"
predict ingest --home "$home"
predict forecasts --home "$home"
predict report --home "$home"
say "Done. Open $home/report/index.html, or explore with: make app"
printf 'runs: %s/runs.duckdb   forecasts: %s/forecasts/*.json   explorer: streamlit run app.py\n' "$home" "$home"
