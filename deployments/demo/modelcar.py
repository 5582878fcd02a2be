"""``make demo MODELCAR=1``: the model that the demo uploaded becomes an image, KServe serves it, and it is asked."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import devcluster
from deployments.demo import model
from deployments.demo.embedder import MODEL_FORMAT, embedder_image, serving_runtime
from deployments.demo.own_stack import Step
from deployments.demo.prefect_side import PrefectFailed, PrefectSide, Show, carry_out
from devcluster.commands import run
from modelyard.kube.apply import apply
from modelyard.kube.client import Kube

#: Of the example in sentence-transformers' documentation, which prints 0.6660, 0.1046 and 0.1411 for this model.
TEXTS = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
#: Not the caches' namespace: KServe's modelcar containers do not meet the restricted Pod Security standard.
NAMESPACE = "modelyard-demo-serving"
NAME = model.MODEL
_ASK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that was sent to the model, and the similarities that it answered."""

    url: str
    body: str
    similarities: list[float]

    def command(self) -> str:
        """The same request for a shell."""
        quoted = self.body.replace("'", "'\\''")
        return f"curl -s --noproxy '*' {self.url} -d '{quoted}'"


def serve(prefect: PrefectSide, cluster: devcluster.Cluster, kube: Kube, step: Step, show: Show) -> Asked:
    """Build the image, serve it, and ask the model.

    Raises:
        PrefectFailed: a flow run did not complete, or the model does not answer.
    """
    with step("demo: the inference server's image"):
        runtime = serving_runtime(embedder_image(cluster), NAMESPACE)
        apply(kube, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        _kubectl(cluster, "apply", "--server-side", "--filename=-", stdin=json.dumps(runtime))
    image = f"{cluster.registry}/models/{model.MODEL}"
    with prefect.settings():
        _save_registry(cluster)
        for deployment, parameters in _runs(kube, cluster, image).items():
            with step(f"demo: deployment {deployment}"):
                carry_out(prefect, parameters, show, f"{deployment}/{deployment}")
    with step("demo: ask the model"):
        return _ask(_address(cluster))


def _runs(kube: Kube, cluster: devcluster.Cluster, image: str) -> dict[str, dict[str, Any]]:
    """The deployments to run, in their order, with their parameters."""
    (node,) = kube.list("Node")
    build = {
        "model": model.MODEL,
        "path": model.PATH,
        "repository": image.removeprefix(f"{cluster.registry}/"),
        # The devcluster's own, since it reaches no registry of the world; it is for this machine's processor alone.
        "base": f"{cluster.registry}/library/busybox:1.36",
        "platforms": [f"linux/{node['metadata']['labels']['kubernetes.io/arch']}"],
    }
    serving = {"name": NAME, "namespace": NAMESPACE, "image": f"{image}:{model.VERSION}", "model_format": MODEL_FORMAT}
    return {"enable-modelcars": {}, "build-modelcar": build, "serve-modelcar": serving}


def _save_registry(cluster: devcluster.Cluster) -> None:
    from blocks import OciRegistry  # noqa: PLC0415 - see PrefectSide.settings

    OciRegistry(host=cluster.registry, plain_http=True, resume_uploads=True).save("default", overwrite=True)


def _address(cluster: devcluster.Cluster) -> str:
    """Of the predictor's Service: this machine reaches it as pods do."""
    told = _kubectl(cluster, "get", f"service/{NAME}-predictor", "--output=json")
    spec = json.loads(told)["spec"]
    return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"


def _kubectl(cluster: devcluster.Cluster, *arguments: str, stdin: str | None = None) -> str:
    return run([cluster.kubectl, "--kubeconfig", cluster.kubeconfig, "--namespace", NAMESPACE, *arguments], stdin=stdin)


def _ask(address: str) -> Asked:
    """The cosine similarity of each two texts, by the Open Inference Protocol."""
    texts = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
    body = json.dumps({"inputs": [texts], "outputs": [{"name": "similarity"}]})
    url = f"{address}/v2/models/{NAME}/infer"
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})  # noqa: S310 - our own http address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _ASK_SECONDS
    while True:
        try:
            with opener.open(request, timeout=_ASK_SECONDS) as answer:
                (output,) = json.load(answer)["outputs"]
                return Asked(url, body, output["data"])
        except (urllib.error.URLError, OSError) as error:  # the Service learns of a pod a moment after it is Ready
            if time.monotonic() > deadline:
                raise PrefectFailed(f"the model does not answer at {url}: {error}") from error
            time.sleep(1)
