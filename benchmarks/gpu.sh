#!/usr/bin/env bash
# What only a GPU can tell, in under nine minutes: benchmarks/gpu.sh [--force] [STEP ...]
#
# Each step writes one file with machine, versions and commit, and is skipped where that file is there already (--force repeats
# it). A step that fails or passes its time limit is reported, and the next one begins. It needs no network and no dataset.
#
#   OUT          folder of the results (benchmarks/results)
#   WEIGHTS      of the trained model: a name, or a .safetensors file (ccp-lite)
#   PHOTOGRAPHS  folder in which the trained model detects (drawn outfits)
#   DETECTIONS   file of benchmarks/detections.py, in place of detecting here
#   WHEELS       folder of wheels, from which missing packages are installed
#   PYTHON       .venv/bin/python, or python3
#   BUDGET       seconds in all (520)
#   DEVICE=cpu TINY=1 benchmarks/gpu.sh    the same steps at tiny sizes, to see that they run
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
device=${DEVICE:-cuda} weights=${WEIGHTS:-ccp-lite} budget=${BUDGET:-520} out=${OUT:-$root/benchmarks/results}
python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || python=python3
export PYTHONPATH="$root:$root/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

workers=$(($(nproc) / 2))
workers=$((workers < 1 ? 1 : workers > 8 ? 8 : workers))
images=16 rounds=15 training_rounds=7
sizes=(--recipe vcp_r50 -o solver.batch=4)
photographs=(--photographs 64 --rounds 3 --workers "$workers")
cases=(--case standard "one class" "within a pixel, one class")
steps="detections trained kernels predict-lite predict training models"
declare -A limit=([detections]=90 [trained]=110 [kernels]=130 [predict-lite]=110 [predict]=160 [training]=150 [models]=110)
if [[ -n ${TINY:-} ]]; then
  images=2 rounds=2 training_rounds=2 budget=${BUDGET:-3600} out=${OUT:-${TMPDIR:-/tmp}/imptool-tiny}
  sizes=(--recipe outfits_small -o solver.batch=2)
  photographs=(--recipe outfits_small --photographs 2 --rounds 1 --sizes 800x1333 --workers "$workers")
  cases=(--case "one detection" --repetitions 3)
  for step in $steps; do limit[$step]=900; done
fi
detections=${DETECTIONS:-$out/detections-${device/cuda/gpu}.safetensors}
panoptic=(panoptic-p2 panoptic-p2-imp panoptic-fpn panoptic-fpn-imp)

choose_command() { # step, file to write: sets $command
  local models=("$root/benchmarks/models.py" "${sizes[@]}" --bfloat16) predict=("$root/benchmarks/predict.py" "${photographs[@]}")
  local replayed=()
  [[ -e $detections ]] && replayed=(--detections "$detections")
  case $1 in
    detections) # what the trained model detects, for the steps below
      command=("$root/benchmarks/detections.py" "$weights" --count "$images" ${PHOTOGRAPHS:+--photographs "$PHOTOGRAPHS"}) ;;
    trained) # inference with and without the canvas, with the trained model's detections
      command=("${models[@]}" --only inference --rounds $((2 * rounds)) --detections "$detections"
        --models torchvision mask-rcnn "${panoptic[@]}") ;;
    kernels) # the projection alone, of these detections and of the worst cases
      command=("$root/benchmarks/projection" "${cases[@]}" "${replayed[@]}") ;;
    predict-lite) # predict as a whole, with the trained model
      command=("${predict[@]}" --weights "$weights" --sizes 800x1333) ;;
    predict) # predict as a whole, ResNet-50 at 800/1333
      command=("${predict[@]}" --no-memory) ;;
    training) # a training step in float32 and bfloat16, with the trained model's detections where there are some
      command=("${models[@]}" --only training --rounds "$training_rounds" "${replayed[@]}"
        --models torchvision mask-rcnn "${panoptic[@]}" "panoptic-p2-imp (detach)" "panoptic-fpn-imp (detach)") ;;
    models) # inference of all models, with the detections of an untrained detector
      command=("${models[@]}" --only inference --rounds "$rounds") ;;
  esac
  command=("$python" "${command[@]}" --device "$device" --out "$2")
}

file_of() { # step
  [[ $1 == detections ]] && echo "$detections" || echo "$out/$1-${device/cuda/gpu}.json"
}

measure() { # step, --force or nothing: sets $state
  local file seconds=$((budget - SECONDS)) code
  file=$(file_of "$1")
  state="there already"
  [[ -e $file && -z $2 ]] && return 0
  state="no time left"
  ((seconds < 20)) && return 1
  seconds=$((seconds < limit[$1] ? seconds : limit[$1]))
  printf '\n== %s (at most %s s)\n' "$1" "$seconds"
  rm -f "$file.part"
  choose_command "$1" "$file.part"
  timeout --foreground --kill-after=5 "$seconds" "${command[@]}"
  code=$?
  case $code in
    0) state="done" && mv "$file.part" "$file" ;;
    124 | 137) state="stopped at its limit" ;;
    *) state="failed ($code)" ;;
  esac
  return "$code"
}

# Modules that may be missing beside an installed torch, and the packages that hold them.
modules="torch:torch torchvision:torchvision numpy:numpy cv2:opencv-python-headless matplotlib:matplotlib numba:numba
  llvmlite:llvmlite PIL:pillow pycocotools:pycocotools pydantic:pydantic pydantic_core:pydantic-core
  annotated_types:annotated-types typing_inspection:typing-inspection rich:rich click:click yaml:PyYAML
  safetensors:safetensors scipy:scipy shapely:shapely tensorboard:tensorboard timm:timm"
[[ $device == cuda ]] && modules+=" numba_cuda:numba-cuda"

find_missing() {
  # shellcheck disable=SC2086
  "$python" -c "
import importlib.util, sys
pairs = (pair.split(':') for pair in sys.argv[1:])
print(*(package for module, package in pairs if importlib.util.find_spec(module) is None))" $modules
}

check_machine() { # install what is missing from $WHEELS, or say what it is
  local missing
  missing=$(find_missing) || exit 1
  if [[ -n $missing && -n ${WHEELS:-} ]]; then
    # shellcheck disable=SC2086
    "$python" -m pip install --quiet --no-index --no-deps --find-links "$WHEELS" $missing
    missing=$(find_missing)
  fi
  [[ -z $missing ]] || { echo "missing in $python: $missing (install them, or name a folder of wheels: WHEELS=...)" >&2; exit 1; }
  "$python" -c "
import sys, torch
if sys.argv[1] == 'cuda' and not torch.cuda.is_available():
    sys.exit('no CUDA GPU was found (DEVICE=cpu TINY=1 runs all steps at tiny sizes)')
print(f'Python {sys.version.split()[0]}, torch {torch.__version__}, {sys.argv[1]}')" "$device" || exit 1
}

force="" chosen=() failed=0 table=""
for argument in "$@"; do
  case " --force $steps " in
    *" $argument "*) [[ $argument == --force ]] && force=yes || chosen+=("$argument") ;;
    *) echo "'$argument' is no step: $steps" >&2 && exit 2 ;;
  esac
done
[[ ${#chosen[@]} -gt 0 ]] || read -ra chosen <<<"$steps"
mkdir -p "$out"
check_machine
for step in "${chosen[@]}"; do
  began=$SECONDS
  measure "$step" "$force" || failed=1
  table+=$(printf '%-12s  %-20s  %4s s  %s' "$step" "$state" $((SECONDS - began)) "$(file_of "$step")")$'\n'
done
printf '\n%s%s s in all\n' "$table" "$SECONDS"
exit "$failed"
