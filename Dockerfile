# fracgen with torch on a machine with an NVIDIA GPU, its driver and the NVIDIA container toolkit:
#
#   docker build --tag fracgen .
#   docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" --volume "$PWD:/work" fracgen render --out 1p-frac
#
# torch's wheels bring CUDA with them, so that a plain Python image is enough. For another CUDA than the newest:
#   docker build --build-arg TORCH="torch==2.8.*" --build-arg TORCH_INDEX=<an index of torch's wheels> .

ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# torch.compile (`run.compile=true`) needs a C compiler
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# the large layer first: it stays when the code changes
ARG TORCH="torch>=2.4"
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" torchvision

ARG EXTRAS=train,photo
COPY . /src
RUN pip install --no-cache-dir "/src[$EXTRAS]" && rm -rf /src

# Categories that were searched, machine code and downloads: whoever runs it may write there, under any user id. HOME is
# for libraries that keep settings; USER for those that ask for a name, as older torch does when it compiles: an id that
# `--user` gives has none.
ENV FRACGEN_CACHE=/var/cache/fracgen NUMBA_CACHE_DIR=/var/cache/fracgen/numba HOME=/var/cache/fracgen/home USER=fracgen
RUN install --directory --mode 1777 "$FRACGEN_CACHE" "$NUMBA_CACHE_DIR" "$HOME" \
    && useradd --no-create-home --uid 1000 fracgen \
    && install --directory --owner fracgen /work
USER fracgen
WORKDIR /work
ENTRYPOINT ["fracgen"]
CMD ["--help"]
