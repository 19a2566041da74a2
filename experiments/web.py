"""How long does somebody wait at the page?

python experiments/web.py celeba64 faces64

Starts the server of each checkpoint, and asks it as the page does: an example, a hole over its
eyes, four candidates.  Prints the seconds from the request to the first image of the search and
to the candidates: the median of five requests, after one that is not counted.  Needs the extra
[web], and httpx.
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
    print("| checkpoint | first image, s | four candidates, s |\n| --- | --- | --- |")
    for ckpt in sys.argv[1:] or ["celeba64"]:
        command = [sys.executable, "-m", "dcgan_inpaint.web", "--port", "0", "--ckpt", ckpt]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                with httpx.Client(base_url=server.stdout.readline().strip(), timeout=120) as client:
                    times = [waited(client) for _ in range(1 + REQUESTS)][1:]
            finally:
                server.terminate()
        first, whole = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {ckpt} | {first:.2f} | {whole:.2f} |", flush=True)


def waited(client: httpx.Client) -> tuple[float, float]:
    """Seconds until the first image of a search, and until its candidates."""
    example = client.get("/examples/face-1").raise_for_status().content
    with Image.open(io.BytesIO(example)) as image:
        width, height = image.size
    mask = Image.new("L", (width, height), 255)
    mask.paste(0, (width // 4, height * 2 // 5, width * 3 // 4, height * 3 // 5))
    held = io.BytesIO()
    mask.save(held, "PNG")
    files = {"photo": ("p.png", example), "mask": ("m.png", held.getvalue())}
    data = {"square": f"0,0,{min(width, height)},{min(width, height)}", "candidates": "4"}
    start, first = time.perf_counter(), 0.0
    with client.stream("POST", "/complete", files=files, data=data) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line == "event: frame" and not first:
                first = time.perf_counter() - start
            if line == "event: done":
                return first, time.perf_counter() - start
            if line == "event: fault":
                break
    raise RuntimeError("the search did not end: see what the page says")


if __name__ == "__main__":
    main()
