#!/usr/bin/env bash
#SBATCH --job-name=conditioned
#SBATCH --output=%x-%A_%a.log
#SBATCH --signal=B:TERM@120
# Runs one of the binaries under Slurm. Time limits, partitions and GPUs are those of your cluster: give them to sbatch.
#
#   The cells of a table, a share to each job of an array; when all are through, the same line without the array
#   makes the table:
#     SHARDS=8 sbatch --array=0-7 scripts/slurm.sh target/release/table1-imagenet --out runs/table1
#   One large run by many processes, each with its share of a step (a binary with --features mpi):
#     sbatch --ntasks=8 --gpus-per-task=1 scripts/slurm.sh target/release/table1-imagenet --preset paper \
#       --data IMAGENET --models deit --arms baseline --seeds 1 --device cuda:0 \
#       --set batch_size=128 --set accumulate=8 --out runs/deit
#
# A job whose time limit is near saves and ends; the same line again goes on from there. Not yet run under Slurm.
set -euo pipefail
if [ $# -eq 0 ]; then
  sed -n '5,15s/^# \{0,1\}//p' "$0"
  exit 2
fi
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  set -- "$@" --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:?the number of all shards, as in SHARDS=8 sbatch --array=0-7}"
fi
if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
  set -- "$@" --launch "srun --kill-on-bad-exit=1 --gpu-bind=none --ntasks=$SLURM_NTASKS"
fi
exec "$@"
