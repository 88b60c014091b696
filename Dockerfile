# An image for the pods of `evomerge launch rayjob`.
#   docker build --tag REGISTRY/evomerge:1 .
# Torch comes as the package index has it, with CUDA. For the processor alone, or another CUDA, name the index
# of those wheels:
#   docker build --build-arg TORCH_INDEX=URL --tag REGISTRY/evomerge:1-cpu .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=""
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY evomerge ./evomerge
# RayJobs are submitted to a server that only `ray[default]` has.
RUN python -m venv /opt/evomerge \
    && /opt/evomerge/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        --constraint constraints.txt '.[peft]' 'ray[default]'

FROM python:${PYTHON}-slim-bookworm
# KubeRay asks with wget whether Ray is well. A compiler makes the merge passes of large models faster.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home evomerge
COPY --from=build /opt/evomerge /opt/evomerge
# KubeRay may start a login shell, which sets its own PATH.
RUN echo 'export PATH="/opt/evomerge/bin:$PATH"' > /etc/profile.d/evomerge.sh
ENV PATH="/opt/evomerge/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TOKENIZERS_PARALLELISM=false
USER 1000
WORKDIR /home/evomerge
CMD ["evomerge", "--help"]
