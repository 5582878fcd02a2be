"""How to reach a Kubernetes cluster, in exactly one of three ways; ``get_client`` gives a synchronous client for it.

Prefect's own ``KubernetesClusterConfig`` gives the kubeconfig back in clear from the API and its clients are asynchronous
and lack storage; hence this block. A kubeconfig, a token and a client key are secrets here.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Self

import kubernetes.config
import yaml
from kubernetes.client import ApiClient, Configuration
from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.certificates import checked_authority
from blocks.kubeconfig import chosen_context, context_problem, exec_command, missing_program, parse_kubeconfig
from modelyard import __version__
from modelyard.errors import ClusterUnavailable, Refused

if TYPE_CHECKING:
    from prefect_kubernetes.credentials import KubernetesCredentials  # type: ignore[import-untyped]  # it ships no types

_WAYS = "set in_cluster, or kubeconfig, or server with token"


class Cluster(CredentialsBlock):
    """A Kubernetes cluster: the one that the flow runs in, or another by kubeconfig or by server and token."""

    _block_type_name: ClassVar[str | None] = "Modelyard Cluster"
    _block_type_slug: ClassVar[str | None] = "modelyard-cluster"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/kubernetes.png"
    )
    _documentation_url = HttpUrl("https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/")
    _description = "A Kubernetes cluster: the one that the flow runs in, or another by kubeconfig or by server and token."

    # A validation error of the whole block would quote its input, secrets included.
    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    in_cluster: bool = Field(
        default=False, description="Use the service account of the pod that the flow runs in; then leave the other fields empty."
    )
    kubeconfig: SecretStr | None = Field(
        default=None,
        description="Text of a kubeconfig with certificates and keys inside it (kubectl config view --raw --flatten --minify).",
    )
    context: str | None = Field(
        default=None, description="Context of the kubeconfig; required if it holds several, for its current context is not read."
    )
    server: str | None = Field(default=None, description="URL of the API server (https://...), together with a token.")
    token: SecretStr | None = Field(default=None, description="Bearer token for the server, for example of a service account.")
    ca_certificate: str | None = Field(
        default=None, description="PEM text of the authority that signed the server's certificate; empty: those that the system trusts."
    )

    @field_validator("ca_certificate")
    @classmethod
    def _is_authority(cls, pem: str | None) -> str | None:
        return checked_authority(pem)

    @model_validator(mode="after")
    def _reached_in_one_way(self) -> Self:
        ways = [self.in_cluster, bool(self.kubeconfig), bool(self.server or self.token)]
        if sum(ways) != 1:
            raise ValueError(f"{sum(ways)} ways to reach the cluster are set, 1 is needed; {_WAYS}")
        if self.context and not self.kubeconfig:
            raise ValueError(f"context {self.context!r} belongs to a kubeconfig, and none is set; remove it or set kubeconfig")
        if self.ca_certificate and not self.server:
            raise ValueError("ca_certificate belongs to server and token; a kubeconfig holds its own, and so does a pod; remove it")
        if self.kubeconfig:
            self._check_kubeconfig()
        if self.server or self.token:
            self._check_server()
        return self

    def _check_kubeconfig(self) -> None:
        kubeconfig, context = self._kubeconfig()
        if problem := context_problem(kubeconfig, context):
            raise ValueError(problem)

    def _check_server(self) -> None:
        if not self.server or not self.token:
            raise ValueError(f"{'token' if self.server else 'server'} is missing; server and token go together")
        if not self.server.startswith("https://"):
            raise ValueError(f"server {self.server!r} must begin with https://, or the token would travel in clear")

    def _kubeconfig(self) -> tuple[dict[str, Any], str]:
        parsed = parse_kubeconfig(self.kubeconfig.get_secret_value() if self.kubeconfig else "")
        return parsed, chosen_context(parsed, self.context)

    @classmethod
    def from_kubernetes_credentials(cls, credentials: "KubernetesCredentials") -> Self:
        """The same cluster as Prefect's own block names; without a cluster config that block means the surrounding cluster."""
        if (config := credentials.cluster_config) is None:
            return cls(in_cluster=True)
        return cls(kubeconfig=SecretStr(yaml.safe_dump(config.config)), context=config.context_name)

    def get_client(self) -> ApiClient:
        """A synchronous client with its own configuration; the process-wide default is neither read nor changed.

        Client certificates of a kubeconfig lie in files of this user alone (0600) until the process ends: OpenSSL reads
        no key from memory. Exec plugins run here, and again when their token expires.

        Raises:
            Refused: in_cluster outside of a pod, or the kubeconfig's exec plugin is not installed.
            ClusterUnavailable: the exec plugin gave no credentials.
        """
        configuration = Configuration()
        if self.in_cluster:
            _load_service_account(configuration)
        elif self.kubeconfig:
            _load_kubeconfig(configuration, *self._kubeconfig())
        else:
            self._load_token(configuration)
        client = ApiClient(configuration)
        client.user_agent = f"modelyard/{__version__}"  # so that audit logs name us
        return client

    def _load_token(self, configuration: Configuration) -> None:
        configuration.host = (self.server or "").rstrip("/")
        configuration.api_key["BearerToken"] = f"Bearer {self.token.get_secret_value() if self.token else ''}"
        configuration.ca_cert_data = self.ca_certificate


def _load_service_account(configuration: Configuration) -> None:
    try:
        kubernetes.config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kubernetes.config.ConfigException as error:
        raise Refused(
            f"this block says in_cluster, but no service account is mounted here ({error});"
            " run the flow in a pod with automountServiceAccountToken, or set kubeconfig in the block"
        ) from error


def _load_kubeconfig(configuration: Configuration, kubeconfig: dict[str, Any], context: str) -> None:
    command = exec_command(kubeconfig, context)
    if command and missing_program(command):
        raise Refused(f"context {context!r} gets its credentials from {command!r}, which is not installed here; add it to the flow's image")
    load = kubernetes.config.load_kube_config_from_dict
    load(kubeconfig, context=context, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
    # The client only logs a plugin's failure and would go on as system:anonymous.
    if command and not configuration.api_key and not configuration.cert_file:
        raise ClusterUnavailable(f"context {context!r}: {command!r} gave no credentials; run it by hand to see why", delay=30)
