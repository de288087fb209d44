#!/usr/bin/env bash
# A folder of slides as a SLURM job array: every task takes its part, and needs no other.
#
#     mkdir -p logs
#     sbatch --array=1-8 pipelines/slurm_array.sh SLIDES OUT [options of wsiseg segment]
#
# SLIDES is a folder or a list (slides.csv), OUT the folder for the results; both on a disk that
# all nodes see. Shortly before its time is up, and when it is preempted, a task stops, keeps its
# finished tiles and queues itself again. Submitting the same line again does what is left.
# `wsiseg status OUT` tells how far all tasks are. Adapt the lines marked ADAPT.

#SBATCH --job-name=wsiseg
#SBATCH --array=1-8
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --output=logs/%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# ADAPT: account, partition, and for a GPU
# #SBATCH --account=...
# #SBATCH --partition=...
# #SBATCH --gres=gpu:1

set -u

if [ "$#" -lt 2 ]; then
    echo "usage: sbatch slurm_array.sh SLIDES OUT [options of wsiseg segment]" >&2
    exit 2
fi
slides=$1
out=$2
shift 2

# ADAPT: how wsiseg is found; one of
#   module load wsiseg
#   source /path/to/venv/bin/activate
#   wsiseg=(apptainer exec --nv --bind /data wsiseg.sif wsiseg)
wsiseg=(wsiseg)

# Temporary files lie on the node. Compiled kernels do not: they cost a minute of CPU time where
# the cache is new, so it should outlive the job. Without this line it is beside the package, or in
# ~/.cache. ADAPT: export NUMBA_CACHE_DIR=/shared/path/wsiseg-numba
scratch=$(mktemp -d "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/wsiseg.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch

# As often at most as a task queues itself again: a slide that never ends must not do so for ever.
most_restarts=${WSISEG_MOST_RESTARTS:-50}

# bash runs a trap only between commands, so wsiseg is in the background and is waited for.
child='' signal='' interrupted=''
# shellcheck disable=SC2329  # called by the traps
tell() {
    signal=$1 interrupted=yes
    echo "$(date '+%F %T') got SIG$1, passing it on" >&2
    [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
trap 'tell USR1' USR1
trap 'tell TERM' TERM

echo "$(date '+%F %T') ${SLURM_JOB_NAME:-wsiseg} ${SLURM_ARRAY_JOB_ID:-}_${SLURM_ARRAY_TASK_ID:-}" \
    "on $(hostname), restart ${SLURM_RESTART_COUNT:-0}"
"${wsiseg[@]}" segment "$slides" -o "$out" --part auto --quiet "$@" &
child=$!
[ -z "$signal" ] || kill -s "$signal" "$child"

# A signal ends `wait` early; then wait again, for the exit code of wsiseg itself.
interrupted=yes
while [ -n "$interrupted" ]; do
    interrupted=''
    wait "$child"
    code=$?
done
echo "$(date '+%F %T') wsiseg ended with $code"
# While it still starts, it does not know what to do about a signal and dies of it.
if [ -n "$signal" ] && [ "$code" -gt 128 ]; then
    code=75
fi

was_cancelled() {
    # After SIGTERM: preempted, or cancelled by somebody? Only a preempted job has this time.
    [ "$signal" = TERM ] &&
        ! scontrol show job "$job" 2>/dev/null | grep -q 'PreemptTime=[0-9]'
}

# 75: interrupted, call again. Everything else is final: 0 done, 3 some slide failed, 2 wrong usage.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job=${job:-${SLURM_JOB_ID:-}}
if [ "$code" -eq 75 ] && [ -n "$job" ]; then
    if was_cancelled; then
        echo "cancelled: not queued again; submit the same line to continue" >&2
    elif [ "${SLURM_RESTART_COUNT:-0}" -ge "$most_restarts" ]; then
        echo "not queued again after $most_restarts restarts; see wsiseg status $out" >&2
    else
        # SLURM ends this script when it queues the job again; what follows may not run.
        scontrol requeue "$job" || echo "could not queue $job again" >&2
    fi
fi
exit "$code"
