#!/bin/sh
# Write the locked requirements: pins and hashes, no index URLs. Needs uv (`pip install uv`).
set -eu
cd "$(dirname "$0")/.."
lock() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-emit-package ml-serve-client "$@"; }
lock pyproject.toml --group build --output-file requirements/runtime.txt
# What installs the others.
echo uv | lock - --constraint requirements/runtime.txt --output-file requirements/uv.txt
lock pyproject.toml --group build --group dev --extra flavours --extra signing --extra stores --constraint requirements/runtime.txt --output-file requirements/dev.txt
# The image: runtime and flavours without the tools of development, at the versions that the tests ran with.
lock pyproject.toml --group build --extra flavours --extra signing --extra stores --constraint requirements/dev.txt --output-file requirements/image.txt
# Other projects' clients, in an environment of their own.
lock requirements/clients.in --output-file requirements/clients.txt
# What is compared in the benchmarks, each in an environment of its own, with the model's libraries at our versions.
grep -E '^(mlflow|numpy|pandas|scikit-learn|scipy|skops)==' requirements/runtime.txt | sed 's/ \\$//' > requirements/peers.constraints
for peer in fastapi mlflow mlserver bentoml litserve ray; do
  lock "requirements/peers-$peer.in" --constraint requirements/peers.constraints --output-file "requirements/peers-$peer.txt"
done
rm requirements/peers.constraints
