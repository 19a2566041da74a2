"""Measure the waiting times of the web page.

python experiments/web.py celeba128 celeba64

Starts a server for each checkpoint and sends the requests of the page: an example image with a
hole over the eyes, and four candidates. Prints the seconds from the request to the first frame of
the search and to the candidates, as medians of five requests after one warm-up request. Requires
the extra [web] and httpx.
"""

import io
import statistics
import subprocess
import sys
import time

import httpx
from PIL import Image

REQUESTS = 5


def main() -> None:
    """Print a row of the table for each checkpoint."""
    print("| checkpoint | first frame, s | four candidates, s |\n| --- | --- | --- |")
    for ckpt in sys.argv[1:] or ["celeba128"]:
        command = [sys.executable, "-m", "dcgan_inpaint.web", "--port", "0", "--ckpt", ckpt]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                url = server.stdout.readline().strip()
                with httpx.Client(base_url=url, timeout=120) as client:
                    times = [time_request(client) for _ in range(1 + REQUESTS)][1:]
            finally:
                server.terminate()
        first_frame, candidates = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {ckpt} | {first_frame:.2f} | {candidates:.2f} |", flush=True)


def time_request(client: httpx.Client) -> tuple[float, float]:
    """Return the seconds until the first frame of a search, and until its candidates."""
    example = client.get("/examples/portrait_01").raise_for_status().content
    with Image.open(io.BytesIO(example)) as image:
        width, height = image.size
    mask = Image.new("L", (width, height), 255)
    mask.paste(0, (width // 4, height * 2 // 5, width * 3 // 4, height * 3 // 5))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    files = {"photo": ("photo.png", example), "mask": ("mask.png", buffer.getvalue())}
    data = {"crop": f"0,0,{min(width, height)},{min(width, height)}", "candidates": "4"}
    start, first_frame = time.perf_counter(), 0.0
    with client.stream("POST", "/complete", files=files, data=data) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line == "event: frame" and not first_frame:
                first_frame = time.perf_counter() - start
            if line == "event: done":
                return first_frame, time.perf_counter() - start
            if line == "event: error":
                break
    raise RuntimeError("the search failed")


if __name__ == "__main__":
    main()
