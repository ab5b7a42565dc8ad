# syntax=docker/dockerfile:1
# Images of fairtale with everything that the scripts need, at a fixed place.
#
#   docker build --target cpu  -t fairtale:cpu .
#   docker build --target cuda -t fairtale:cuda .     # NVIDIA; the wheels of torch bring CUDA's libraries
#
# Data, checkpoints and outputs lie in data-bin/, runs/, outputs/ and models/ of the working folder, where
# compose.yaml mounts them. Connection strings are never copied into an image (.dockerignore).

FROM python:3.12-slim-bookworm AS base
# the compiler is for --compile, and for fairseq where it has no wheel
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/fairtale
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY tools/ tools/
COPY fairtale/ fairtale/
COPY user_dir/ user_dir/
COPY scripts/ scripts/
RUN mkdir -p data-bin runs outputs models
ENV PATH=/opt/fairtale/.venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1

FROM base AS cuda
RUN FAIRTALE_TORCH=cuda EXTRAS=hf,mongo,plots bash tools/setup_env.sh
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["fairtale", "--help"]

FROM base AS cpu
RUN FAIRTALE_TORCH=cpu EXTRAS=hf,mongo,plots bash tools/setup_env.sh
CMD ["fairtale", "--help"]
