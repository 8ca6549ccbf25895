# On a processor:      docker build --target cpu -t ood_nc .         docker run --rm -v "$PWD/runs:/home/user/runs" ood_nc
# With NVIDIA GPUs:    docker build --target cuda -t ood_nc:cuda .   docker run --rm --gpus all -v "$PWD/runs:/home/user/runs" ood_nc:cuda
# Another command:     docker run --rm ood_nc doctor

FROM python:3.12-slim AS source
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md CHANGELOG.md CITATION.cff LICENSE ./
COPY configs configs
COPY ood_nc ood_nc

FROM python:3.12-slim AS runtime
# Some faiss and torch wheels leave the OpenMP runtime to the system.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home user && mkdir -p /home/user/runs && chown -R user /home/user
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /home/user
ENTRYPOINT ["ood-nc"]
CMD ["quickstart"]

# torch's wheels on PyPI bring CUDA along; the host needs only its driver and the NVIDIA container toolkit.
FROM runtime AS cuda
RUN --mount=from=source,source=/src,target=/src,rw OOD_NC_FAISS=gpu pip install /src
USER user

FROM runtime AS cpu
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch torchvision
RUN --mount=from=source,source=/src,target=/src,rw OOD_NC_FAISS=cpu pip install /src
USER user
