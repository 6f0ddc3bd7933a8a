#!/usr/bin/env bash
# Makes a folder that builds `--features rto-llm/cuda` where no CUDA toolkit is installed: compiler, headers and libraries as NVIDIA publishes them on
# PyPI, and a stand-in for the driver's library, against which programs are linked (at start they need the driver's own).
#
#   scripts/cuda_toolkit.sh FOLDER
#   export CUDA_HOME=FOLDER PATH=FOLDER/bin:$PATH CUDA_COMPUTE_CAP=90   # 80: A100, 90: H100 and H200, 100: B200
#   cargo build --release --features rto-llm/cuda --bin rto_llm
#   LD_LIBRARY_PATH=FOLDER/lib target/release/rto_llm --device cuda …
#
# Needs Linux on x86-64, python3 with pip, gcc, and 2 GB of disk.
set -euo pipefail

[ $# = 1 ] || {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 2
}
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
folder=$1
[ ! -e "$folder" ] || fail "$folder: is there, expected the name of a new folder"
for needed in python3 gcc; do
    command -v "$needed" >/dev/null || fail "no $needed on the PATH"
done

# The version that .ci/check-kernels compiles with, and the libraries of the same release.
packages=(
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96
    nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35
)
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work/wheels" "${packages[@]}" ||
    fail "pip cannot download ${packages[*]}"
for wheel in "$work"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$work/unpacked"
done
made=$work/unpacked/nvidia/cu13
find "$made/bin" "$made/nvvm/bin" -type f -exec chmod +x {} +
# Linkers look for names without a version.
for library in "$made"/lib/lib*.so.*; do
    name=${library##*/}
    ln -sf "$name" "$made/lib/${name%%.so.*}.so"
done
ln -s lib "$made/lib64"

# Every function of the driver, by its exported name.
mkdir "$made/lib/stubs"
gcc -E "$made/include/cuda.h" | grep -o '\bcu[A-Z][A-Za-z0-9_]* *(' | tr -d ' (' | sort -u >"$work/names"
[ "$(wc -l <"$work/names")" -gt 200 ] || fail "cuda.h declares $(wc -l <"$work/names") functions, expected more than 200"
sed 's/.*/void &(void) {}/' "$work/names" >"$work/cuda.c"
gcc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$made/lib/stubs/libcuda.so" "$work/cuda.c"

"$made/bin/nvcc" --version >/dev/null || fail "the compiler does not start"
mv "$made" "$folder"
printf '%s: nvcc %s\n' "$folder" "$("$folder/bin/nvcc" --version | grep -o "V[0-9][0-9.]*" | head -1)"
