# The workbench for a class: no root, nothing to write but /data, no network needed once built.
FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /engram
COPY requirements.txt .
RUN pip install "$(grep '^torch==' requirements.txt)" && pip install -r requirements.txt \
    && useradd --uid 10001 --no-create-home engram && mkdir /data && chown engram /data
COPY . .
RUN python -m app.language compile
USER engram
ENV HOME=/data ENGRAM_RUNS=/data/runs ENGRAM_CACHE=/data/cache MPLCONFIGDIR=/data/matplotlib HF_HUB_OFFLINE=1 \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 STREAMLIT_SERVER_HEADLESS=true ENGRAM_BEHIND_PROXY=1
EXPOSE 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["--public"]
