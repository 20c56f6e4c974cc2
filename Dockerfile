# The wheel is built in the first stage; the second holds the wheel and what it needs, no sources.
#
#   docker build -t qoq .
#   docker run --rm -p 127.0.0.1:8000:8000 -v qoq-cache:/home/qoq/.cache qoq
#
# TORCH is given to pip as it stands. The default is the CPU build; for a GPU:
#   docker build -t qoq --build-arg TORCH=torch .

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir "build>=1.2"
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY quantize quantize
COPY engine engine
COPY kernels kernels
COPY scheduler scheduler
COPY configs configs
COPY loadtest loadtest
RUN python -m build --wheel --outdir /wheel

FROM python:${PYTHON}-slim
ARG TORCH="torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu"
ENV PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    TRITON_CACHE_DIR=/home/qoq/.cache/triton

# Triton, which runs on GPUs only, makes the code that starts a kernel with a C compiler.
# hadolint ignore=DL3008
RUN case "${TORCH}" in \
    *whl/cpu*) ;; \
    *) apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/* ;; \
    esac

# torch before the wheel: a layer of gigabytes that a change of ours leaves in the cache. It has its
# version from TORCH.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH}
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir /wheel/*.whl

# A fixed id, so that a volume written today is writable tomorrow. The cache holds downloaded
# models and quantized checkpoints; made here, so that a new volume belongs to the user too.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin qoq \
    && install --directory --owner qoq --group qoq /home/qoq/.cache
USER 10001
WORKDIR /home/qoq
VOLUME ["/home/qoq/.cache"]
EXPOSE 8000

# Alive, not ready: the first start downloads and quantizes a model before /ready says yes.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

ENTRYPOINT ["qoq"]
CMD ["serve", "smollm2-135m-instruct", "--host", "0.0.0.0", "--port", "8000"]
