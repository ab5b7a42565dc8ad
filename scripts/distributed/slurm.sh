#!/usr/bin/env bash
#SBATCH --job-name=fairtale
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
# Train on the nodes of a Slurm job, one process for each GPU.
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/distributed/slurm.sh DATA --user-dir ...
#
#   all words            are passed to fairseq-train
#   PROCESSES=8          processes on each node (the GPUs that Slurm gives, or 1)
#   PORT=29500           a free port on the first node
#   RESTARTS=3           how often the training goes on by itself after a process has died
#   DRY_RUN=1            print the command instead of running it
#
# The data and the save dir must be on a file system that all nodes share. A job that Slurm has stopped
# and queued again goes on from its last checkpoint, and so does the same command by hand.
set -euo pipefail

[ -n "${SLURM_JOB_NODELIST:-}" ] || {
    echo "error: not in a Slurm job: start this script with sbatch; on one machine use torchrun" >&2
    exit 1
}
[ $# -gt 0 ] || {
    echo "error: name the data and the options of fairseq-train" >&2
    exit 1
}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
train=$(command -v fairseq-train) || {
    echo "error: no fairseq-train: activate the environment before sbatch" >&2
    exit 1
}
command=(
    srun torchrun --nnodes "${SLURM_NNODES:-1}"
    --nproc-per-node "${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}"
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}"
    --max-restarts "${RESTARTS:-3}" "$train" "$@"
)
if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${command[@]}"
    echo
else
    exec "${command[@]}"
fi
