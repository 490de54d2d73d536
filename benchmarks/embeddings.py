"""Serves embeddings for `benchmarks.recall`, as OpenAI's API does, from a small model in a Python package.

    python -m venv /tmp/embeddings && /tmp/embeddings/bin/pip install wordllama
    /tmp/embeddings/bin/python benchmarks/embeddings.py --port 8090

The model is `wordllama`, static vectors of 16 MB that its wheel brings along. It is no dependency of Threadfold.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

wordllama = import_module("wordllama")
MODEL = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
"""Its loader looks for the tokenizer that the wheel has only where it keeps what it has fetched."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vectors = MODEL.embed(asked["input"], norm=True)
        data = [
            {"object": "embedding", "index": index, "embedding": vector.tolist()}
            for index, vector in enumerate(vectors)
        ]
        body = json.dumps({"object": "list", "model": asked["model"], "data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the benchmark's output is what is read."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8090)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
