# Turns a bare Python image, the pinned packages and this project into the image of every service.
#   docker compose build
#
# The layers go from what changes seldom to what changes often: compiler, torch, the lock, the project.

# An office mirror's name may stand here instead: BASE_IMAGE in .env.
ARG BASE_IMAGE=python:3.12.12-slim-bookworm

FROM ${BASE_IMAGE} AS stack
# Triton compiles its kernels' launchers where they run: with gcc, C headers, and Python's (in the base).
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
# Settings of a package index come as a secret: they are mounted for one command and reach no layer.
# torch by its pin, with the CUDA libraries that its wheel names at exact versions; whatever else the
# lock names comes with hashes. The packages' own tests and libraries to link against stay out.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/runner \
 && /opt/runner/bin/pip install --quiet torch==2.13.0 \
 && find /opt/runner \( -type d -name tests -prune -o -name '*.a' \) -exec rm -rf {} +
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements.lock,target=/tmp/requirements.lock \
    /opt/runner/bin/pip install --quiet --no-deps --require-hashes -r /tmp/requirements.lock \
 && find /opt/runner \( -type d -name tests -prune -o -name '*.a' \) -exec rm -rf {} +
# lm-evaluation-harness, for a box whose owner allows tasks of it: 340 MB that no other box needs.
ARG LM_EVAL=false
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements-tasks.lock,target=/tmp/requirements-tasks.lock \
    if [ "${LM_EVAL}" = true ]; then \
      /opt/runner/bin/pip install --quiet --no-deps --require-hashes -r /tmp/requirements-tasks.lock \
      && find /opt/runner \( -type d -name tests -prune -o -name '*.a' \) -exec rm -rf {} +; \
    fi

FROM stack AS wheel
WORKDIR /project
COPY . .
# Built with the locked setuptools: nothing is fetched here.
RUN /opt/runner/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel .

# llama.cpp's tools for GGUF files; the compiler stays here. Minutes of all cores, once: what it is made
# from changes seldom.
FROM ${BASE_IMAGE} AS llama
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=tools/llama,target=/tmp/llama \
    bash /tmp/llama/build /opt/llama.cpp python3

# The page's door: nginx from Debian and a script; nothing of the box is in it.
FROM ${BASE_IMAGE} AS door
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nginx-light openssl \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --chmod=755 tools/door/door /usr/local/bin/door
COPY tools/door/nginx.conf /etc/door/nginx.conf
USER 1000:1000
ENTRYPOINT ["door"]

FROM stack
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /opt/runner/bin/pip install --quiet --no-deps --no-index /wheel/*.whl
COPY --from=llama /opt/llama.cpp /opt/llama.cpp
# The health check, every 15 seconds: a shell script, for Python and its imports cost more.
COPY --chmod=755 runner/commands/health.sh /usr/local/bin/runner-health
COPY runner/office/page_health.py /usr/local/lib/page_health.py

LABEL org.opencontainers.image.title="finetuning-box" \
      org.opencontainers.image.description="Drop a job spec into a folder, get a fine-tuned LoRA adapter"

# The numeric user that compose.yaml names has no entry in /etc/passwd: whoever asks for a name or a
# home finds them here. NVIDIA_… names the driver's parts that the container toolkit is to mount.
ENV PATH=/opt/runner/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/cache \
    USER=runner \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RUNNER_JOBS_DIR=/jobs \
    RUNNER_OUTPUTS_DIR=/outputs \
    RUNNER_MODELS_DIR=/models \
    RUNNER_CACHE_DIR=/cache
USER 1000:1000
WORKDIR /
ENTRYPOINT ["runner"]
CMD ["watch"]
