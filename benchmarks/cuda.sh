#!/usr/bin/env bash
# Everything about the GPU, on a machine with an NVIDIA driver and Python 3.11 or later: an environment, the tests that
# need a GPU, and the measurements, as Markdown on standard output.
#
#   bash benchmarks/cuda.sh [--dry-run] [arguments of python -m benchmarks.cuda]
#
#   PYTHON       the Python that the environment is made from (default: python3.11, else python3)
#   VENV         where the environment lives (default: .venv-cuda in the checkout)
#   CUDA_EXTRA   gpu for CUDA 12, gpu13 for CUDA 13 (default: what the driver offers)
#   TORCH_INDEX  where PyTorch for CUDA 12 comes from (default: its makers' index of wheels for CUDA 12.8)
#   SKIP_TESTS   1 leaves the tests out
#
# --dry-run prints the commands and runs none. `--device cpu` rehearses on a machine without a GPU, in an environment
# that exists: VENV=... SKIP_INSTALL=1 bash benchmarks/cuda.sh --device cpu --seconds 2 --batches 1,4
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry=
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi

run() {
  if [[ $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

say() {
  echo "$*" >&2
}

rehearsal=
arguments=" $* "
if [[ $arguments == *" --device cpu "* || $arguments == *" --device=cpu "* ]]; then
  rehearsal=1
fi

venv=${VENV:-.venv-cuda}
python=$venv/bin/python

# The CUDA that the driver offers: `nvidia-smi` prints it in its header. A driver runs programs of its CUDA and older.
offered=
if command -v nvidia-smi >/dev/null; then
  offered=$(nvidia-smi | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9]*\).*/\1/p' | head -n 1)
elif [[ ! $dry && ! $rehearsal ]]; then
  say "There is no nvidia-smi: this needs an NVIDIA driver, 525 or later. To rehearse without: --device cpu"
  exit 1
fi
if [[ $offered && $offered -lt 12 ]]; then
  say "The driver offers CUDA $offered; ONNX Runtime needs 12 or later, a driver of 525 or later."
  exit 1
fi
if [[ ! ${CUDA_EXTRA:-} ]]; then
  CUDA_EXTRA=gpu
  [[ $offered && $offered -ge 13 ]] && CUDA_EXTRA=gpu13
fi

if [[ ! ${SKIP_INSTALL:-} ]]; then
  if [[ ! ${PYTHON:-} ]]; then
    PYTHON=python3
    if command -v python3.11 >/dev/null; then PYTHON=python3.11; fi
  fi
  [[ -x $python ]] || run "$PYTHON" -m venv "$venv"
  # PyTorch, ONNX Runtime and cuDNN must be of one CUDA: both cuDNNs are files of one name. The package index has
  # PyTorch for CUDA 13; for CUDA 12 it comes from its makers', first, so that the extras find it there already.
  if [[ $CUDA_EXTRA == gpu ]]; then
    index=${TORCH_INDEX:-https://download.pytorch.org/whl/cu128}
    run "$python" -m pip install --quiet 'torch>=2.4' 'torchvision>=0.19' --index-url "$index"
  fi
  run "$python" -m pip install --quiet --editable ".[$CUDA_EXTRA,train,dev]"
fi

# The service loads these by itself; TensorRT and programs of others find them here.
if [[ ! $dry && ! $rehearsal ]]; then
  packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  libraries=$(find "$packages/nvidia" -type d -name lib -printf '%p:' 2>/dev/null || true)
  export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}"
fi

if [[ ! ${SKIP_TESTS:-} && ! $rehearsal ]]; then
  # Without a GPU that works they fail: here they may not be skipped.
  say "The GPU's tests"
  run env REQUIRE_CUDA=1 "$python" -m pytest -q -rs \
    tests/model/engines/test_cuda_device.py tests/model/engines/test_cuda.py \
    tests/model/engines/test_bound_session.py tests/model/engines/test_half_precision.py >&2
fi

run "$python" -m benchmarks.cuda "$@"
