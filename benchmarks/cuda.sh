#!/usr/bin/env bash
# Test and measure on an NVIDIA GPU: make an environment, run the tests that need a GPU, and print the measurements as
# Markdown. It needs an NVIDIA driver and Python 3.11 or later.
#
#   bash benchmarks/cuda.sh [--dry-run] [arguments of python -m benchmarks.cuda]
#
#   PYTHON        Python for the environment (default: python3.11, otherwise python3)
#   VENV          folder of the environment (default: .venv-cuda in the checkout)
#   CUDA_EXTRA    gpu for CUDA 12, gpu13 for CUDA 13 (default: what the driver supports)
#   TORCH_INDEX   package index of PyTorch for CUDA 12 (default: PyTorch's own for CUDA 12.8)
#   SKIP_INSTALL  1 uses the environment as it is
#   SKIP_TESTS    1 runs no tests
#
# --dry-run prints the commands without running them. To rehearse without a GPU, in an existing environment:
#   VENV=... SKIP_INSTALL=1 bash benchmarks/cuda.sh --device cpu --seconds 2 --batches 1,4
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
run() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

fail() {
  echo "$*" >&2
  exit 1
}

rehearsal=
[[ " $* " == *" --device cpu "* || " $* " == *" --device=cpu "* ]] && rehearsal=1
venv=${VENV:-.venv-cuda}
python=$venv/bin/python

# `nvidia-smi` prints the newest CUDA that the driver supports in its header.
cuda=
if command -v nvidia-smi >/dev/null; then
  cuda=$(nvidia-smi | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9]*\).*/\1/p' | head -n 1)
elif [[ ! $dry_run && ! $rehearsal ]]; then
  fail "There is no nvidia-smi: install an NVIDIA driver, 525 or later. To rehearse without a GPU: --device cpu"
fi
if [[ $cuda && $cuda -lt 12 ]]; then
  fail "The driver supports CUDA $cuda; ONNX Runtime needs CUDA 12 or later: install a driver of 525 or later."
fi
if [[ ! ${CUDA_EXTRA:-} ]]; then
  CUDA_EXTRA=gpu
  [[ $cuda && $cuda -ge 13 ]] && CUDA_EXTRA=gpu13
fi

if [[ ! ${SKIP_INSTALL:-} ]]; then
  [[ -x $python ]] || run "${PYTHON:-$(command -v python3.11 || echo python3)}" -m venv "$venv"
  # PyTorch, ONNX Runtime and cuDNN must be built for the same CUDA, because both cuDNNs have the same file names. PyPI's
  # PyTorch is for CUDA 13. For CUDA 12 it is installed first, from PyTorch's own index.
  if [[ $CUDA_EXTRA == gpu ]]; then
    index=${TORCH_INDEX:-https://download.pytorch.org/whl/cu128}
    run "$python" -m pip install --quiet 'torch>=2.4' 'torchvision>=0.19' --index-url "$index"
  fi
  run "$python" -m pip install --quiet --editable ".[$CUDA_EXTRA,train,dev]"
fi

# The service loads these libraries itself; TensorRT finds them through this variable.
if [[ ! $dry_run && ! $rehearsal ]]; then
  packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  libraries=$(find "$packages/nvidia" -type d -name lib -printf '%p:' 2>/dev/null || true)
  export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}"
fi

if [[ ! ${SKIP_TESTS:-} && ! $rehearsal ]]; then
  # REQUIRE_CUDA makes these tests fail, not skip, if the GPU does not work.
  run env REQUIRE_CUDA=1 "$python" -m pytest -q -rs \
    tests/model/engines/test_cuda_device.py tests/model/engines/test_cuda.py \
    tests/model/engines/test_io_binding_session.py tests/model/engines/test_half_precision.py >&2
fi

run "$python" -m benchmarks.cuda "$@"
