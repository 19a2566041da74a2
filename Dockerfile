# The web page: docker build -t dcgan-inpaint . && docker run --rm -p 127.0.0.1:8000:8000 dcgan-inpaint
FROM python:3.12-slim
# wheels of PyTorch for CPUs, which are 2 GB smaller
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dcgan_inpaint dcgan_inpaint
COPY conf conf
RUN pip install --no-cache-dir ".[web]"
RUN useradd --create-home page
USER page
WORKDIR /home/page
EXPOSE 8000
CMD ["dcgan-web", "--host", "0.0.0.0", "--port", "8000"]
