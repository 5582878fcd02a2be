"""A sentence model behind KServe's protocols: texts in, their vectors out; by the Open Inference Protocol (v2) similarities too.

    python -m embedder.server --model-name NAME --model-dir /mnt/models --port 8080

It listens at once and is ready when the model is loaded: in modelcar mode /mnt/models is a link that appears after the start.
"""

import argparse
import json
import logging
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from .bert import Array, Encoder

_LOG = logging.getLogger("embedder")
_LARGEST_BODY = 1 << 20
_LOOK_EVERY_SECONDS = 0.2
#: What must be there before the model is read; the weights come last in every way of bringing a model.
_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_USAGE = 'give {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [n], "data": [n texts]}]} (v2) or {"instances": [n texts]} (v1)'
Answer = tuple[HTTPStatus, dict[str, Any]]


class Model:
    """The one model that is served, once its files are there."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._directory = directory
        self.encoder: Encoder | None = None

    def load(self) -> None:
        """Wait for the files, then read them."""
        while not all((self._directory / file).is_file() for file in _FILES):
            time.sleep(_LOOK_EVERY_SECONDS)
        self.encoder = Encoder(self._directory)
        _LOG.info("model %s is loaded from %s", self.name, self._directory.resolve())

    def metadata(self) -> dict[str, Any]:
        """What the protocol's metadata request is answered with."""
        return {
            "name": self.name,
            "platform": "numpy",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": "embedding", "datatype": "FP32", "shape": [-1, self.encoder.width if self.encoder else -1]},
                {"name": "similarity", "datatype": "FP32", "shape": [-1, -1]},
            ],
        }

    def answer(self, path: str, request: dict[str, Any]) -> Answer:
        """The answer to a request of either protocol."""
        asked = {f"/v2/models/{self.name}/infer": self._infer, f"/v1/models/{self.name}:predict": self._predict}.get(path)
        if asked is None:
            return HTTPStatus.NOT_FOUND, {"error": f"nothing is at {path}"}
        if self.encoder is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": f"model {self.name} is not loaded yet"}
        try:
            return HTTPStatus.OK, asked(self.encoder, request)
        except (StopIteration, KeyError, TypeError, ValueError):
            return HTTPStatus.BAD_REQUEST, {"error": _USAGE}

    def _infer(self, encoder: Encoder, request: dict[str, Any]) -> dict[str, Any]:
        """The outputs asked for (all, if none is named) of the texts in the input ``text``."""
        vectors = _embed(encoder, next(entry["data"] for entry in request["inputs"] if entry["name"] == "text"))
        found = {"embedding": vectors, "similarity": vectors @ vectors.T}
        wanted = [entry["name"] for entry in request.get("outputs", [])] or list(found)
        outputs = [
            {"name": name, "datatype": "FP32", "shape": list(found[name].shape), "data": found[name].ravel().tolist()} for name in wanted
        ]
        return {"model_name": self.name, "id": request.get("id", ""), "outputs": outputs}

    def _predict(self, encoder: Encoder, request: dict[str, Any]) -> dict[str, Any]:
        """A vector for each of the instances."""
        return {"predictions": _embed(encoder, request["instances"]).tolist()}


def _embed(encoder: Encoder, texts: list[str]) -> Array:
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(texts)
    return np.stack([encoder.embed(text) for text in texts])


class Handler(BaseHTTPRequestHandler):
    """The protocol's paths."""

    protocol_version = "HTTP/1.1"
    model: Model

    def do_GET(self) -> None:
        """Health and metadata."""
        ready = HTTPStatus.OK if self.model.encoder else HTTPStatus.SERVICE_UNAVAILABLE
        answers: dict[str, Answer] = {
            "/v2": (HTTPStatus.OK, {"name": "embedder", "version": "1", "extensions": []}),
            "/v2/health/live": (HTTPStatus.OK, {"live": True}),
            "/v2/health/ready": (ready, {"ready": ready is HTTPStatus.OK}),
            f"/v2/models/{self.model.name}": (HTTPStatus.OK, self.model.metadata()),
            f"/v2/models/{self.model.name}/ready": (ready, {"name": self.model.name, "ready": ready is HTTPStatus.OK}),
            f"/v1/models/{self.model.name}": (ready, {"name": self.model.name, "ready": ready is HTTPStatus.OK}),
        }
        self._answer(*answers.get(self.path, (HTTPStatus.NOT_FOUND, {"error": f"nothing is at {self.path}"})))

    def do_POST(self) -> None:
        """Inference."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > _LARGEST_BODY:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"a request has at most {_LARGEST_BODY} bytes"})
            return
        body = self.rfile.read(length)
        try:
            request = json.loads(body)
        except ValueError as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": f"the body is no JSON: {error}"})
            return
        self._answer(*self.model.answer(self.path, request))

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Probes come each second; only what failed is worth a line, and texts are nobody's business."""


def main() -> None:
    """Serve until killed; a model that cannot be read ends the process, so that the pod tells of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-dir", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s")
    Handler.model = Model(arguments.model_name, arguments.model_dir)
    server = ThreadingHTTPServer(("", arguments.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _LOG.info("listening on port %d; waiting for %s", arguments.port, arguments.model_dir)
    Handler.model.load()
    threading.Event().wait()


if __name__ == "__main__":
    main()
