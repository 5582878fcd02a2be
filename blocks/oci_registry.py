"""Where images go: a registry, with the credentials and the authority to reach it."""

from functools import partial
from typing import Any, ClassVar

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from prefect.blocks.core import Block
from prefect_aws.credentials import AwsCredentials
from pydantic import (
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_validator,
)

from blocks.aws import without_session_token
from blocks.certificates import checked_authority
from blocks.cluster import Cluster
from modelyard.errors import RegistryDenied
from modelyard.images.limits import limits_of
from modelyard.images.references import api_host, host_problem
from modelyard.kube.client import Kube
from modelyard.kube.registry_secret import read_registry_secret
from modelyard.kube.resources import ObjectRef
from modelyard.models import WeightPolicy
from modelyard.names import object_name_problem
from modelyard.oci.access import Access, Credentials, Keychain, Login, credentials_for, read_docker_config
from modelyard.oci.ecr import EcrCredentials, ecr_region
from modelyard.signing.keys import PublicKey, read_public_keys


class OciRegistry(Block):
    """A container registry that modelcars are pushed to."""

    _block_type_name: ClassVar[str | None] = "Modelyard OCI Registry"
    _block_type_slug: ClassVar[str | None] = "modelyard-oci-registry"
    _logo_url = HttpUrl("https://cdn.sanity.io/images/3ugk85nk/production/14a315b79990200db7341e42553e23650b34bb96-250x250.png")
    _documentation_url = HttpUrl("https://github.com/opencontainers/distribution-spec/blob/main/spec.md")
    _description = "A container registry that modelcars are pushed to."

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    host: str = Field(description="Host of the registry as image references write it, with its port if it has one: registry.example:5000.")
    plain_http: bool = Field(default=False, description="Speak to it without TLS: passwords and models then travel in clear.")
    resume_uploads: bool = Field(
        default=False,
        description=(
            "Whether a layer whose upload broke goes on where the registry says that it stands; without, it is sent again from its"
            " beginning. Tested with CNCF distribution 3.1.2, and 2.8.2 (which forgets what broke: it is sent again), of one replica;"
            " several must share their uploads. Other registries may tell a wrong place."
        ),
    )
    ca_certificate: str | None = Field(
        default=None, description="PEM text of the authority that signed the registry's certificate; empty: the public ones."
    )
    username: str | None = Field(default=None, description="User that may pull and push; empty: what the docker config says.")
    password: SecretStr | None = Field(default=None, description="Password or access token of the user.")
    docker_config: SecretStr | None = Field(
        default=None,
        description=(
            'A docker config in JSON ({"auths": ...}), as .dockerconfigjson of a Kubernetes Secret holds it; it may name other'
            " registries too, from which base images are pulled. Credential helpers cannot be used."
        ),
    )
    docker_config_secret: str | None = Field(
        default=None,
        description=(
            "A Secret of type kubernetes.io/dockerconfigjson that holds the docker config, as namespace/name: each run reads it from the"
            " cluster, so a password that changes there need not be changed here. The cluster's account needs get on this Secret."
        ),
    )
    cluster: Cluster | None = Field(default=None, description="The cluster that docker_config_secret is read from.")
    aws_credentials: AwsCredentials | None = Field(
        default=None,
        repr=False,  # it prints its session token
        description=(
            "For Amazon ECR without a user and a docker config: keys, profile or role that ask for its passwords, which end after 12 h."
            " Empty: whatever the pod has (EKS Pod Identity, IRSA, instance role)."
        ),
    )
    weight_formats: WeightPolicy = Field(
        default=WeightPolicy.SCAN,
        description=(
            "Files that pickle loads, in images that are built: any; scan (refused if they import what is not known as harmless); no-pickle"
            " (refused)."
        ),
    )
    require_digests: bool = Field(
        default=False,
        description="Whether a model that is built must bring a SHA256SUMS that lists all of its files (`modelyard upload` writes it).",
    )
    trusted_keys: str | None = Field(
        default=None,
        description=(
            "PEM text of one or more public keys (cosign.pub): images of this registry are then only served, loaded or built upon if"
            " one of them signed the image and its files. Empty: signatures are not asked for."
        ),
    )

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        if problem := host_problem(host):
            raise ValueError(problem)
        return host

    @field_validator("ca_certificate")
    @classmethod
    def _is_authority(cls, pem: str | None) -> str | None:
        return checked_authority(pem)

    @field_validator("docker_config")
    @classmethod
    def _is_docker_config(cls, config: SecretStr | None) -> SecretStr | None:
        if config is None or not config.get_secret_value().strip():
            return None
        try:
            read_docker_config(config.get_secret_value())
        except RegistryDenied as error:
            raise ValueError(str(error)) from None
        return config

    @field_validator("docker_config_secret")
    @classmethod
    def _is_secret(cls, name: str | None) -> str | None:
        if name is None or not name.strip():
            return None
        namespace, _, own = name.strip().partition("/")
        if problem := object_name_problem(namespace) or object_name_problem(own):
            raise ValueError(f"{name!r} names no Secret: write namespace/name ({problem})")
        return name.strip()

    @field_validator("trusted_keys")
    @classmethod
    def _are_public_keys(cls, pem: str | None) -> str | None:
        if pem is None or not pem.strip():
            return None
        read_public_keys(pem)
        return pem

    @model_validator(mode="after")
    def _is_whole(self) -> "OciRegistry":
        if bool(self.username) != bool(self.password and self.password.get_secret_value()):
            raise ValueError("a username and a password belong together; leave both empty for what the docker config says, or for none")
        if self.docker_config and self.docker_config_secret:
            raise ValueError("docker_config and docker_config_secret are both set; empty one of them")
        if bool(self.docker_config_secret) != bool(self.cluster):
            raise ValueError("docker_config_secret and cluster belong together: the Secret, and where it is read; set both, or neither")
        if self.aws_credentials and not ecr_region(self.host):
            raise ValueError("awsCredentials are for Amazon ECR (<account>.dkr.ecr.<region>.amazonaws.com), which this host is not")
        if self.resume_uploads and limits_of(self.host).never_resume:
            raise ValueError(f"resume_uploads is set, and at {self.host} a broken upload is known not to go on; unset it")
        return self

    @field_serializer("aws_credentials", mode="wrap", when_used="unless-none")
    def _hide_session_token(self, credentials: AwsCredentials, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:  # noqa: ANN401 (what pydantic makes of a block)
        return without_session_token(handler(credentials), info)

    def keychain(self) -> Keychain:
        """How this registry, and others that the docker config names, are reached: by what a Secret holds now, where one is named.

        Raises:
            RegistryDenied: that Secret cannot be read, or has nothing for this registry.
            ClusterUnavailable: its cluster does not answer.
            Refused: its cluster's block cannot be used.
        """
        others = self._docker_config()
        own = Credentials(self.username, self.password.get_secret_value()) if self.username and self.password else None
        login = own or credentials_for(self.host, others) or self._ecr()
        if login is None and self.docker_config_secret:
            known = ", ".join(sorted(others)) or "no registry at all"
            step = f"add {self.host} to it, or name another Secret in the registry's block"
            raise RegistryDenied(f"Secret/{self.docker_config_secret}: has credentials for {known}, not for {self.host}; {step}")
        return Keychain(Access(api_host(self.host), self.plain_http, self.ca_certificate, login, self.resume_uploads), others)

    def _docker_config(self) -> dict[str, Credentials]:
        if self.cluster and self.docker_config_secret:
            namespace, _, name = self.docker_config_secret.partition("/")
            return read_registry_secret(Kube(self.cluster.get_client()), ObjectRef("Secret", name, namespace))
        return read_docker_config(self.docker_config.get_secret_value()) if self.docker_config else {}

    def _ecr(self) -> Login | None:
        region = ecr_region(self.host)
        return EcrCredentials(partial(_ecr_client, self.aws_credentials, region)) if region else None

    def public_keys(self) -> tuple[PublicKey, ...]:
        """The keys of which one must have signed an image; none if signatures are not asked for."""
        return read_public_keys(self.trusted_keys) if self.trusted_keys else ()


def _ecr_client(credentials: AwsCredentials | None, region: str) -> Any:  # noqa: ANN401 - no stubs of ECR
    """A client of its own session: one that was kept would go on with an assumed role's expired keys.

    Raises:
        RegistryDenied: the role may not be assumed, or the profile does not exist.
    """
    try:
        session = credentials.get_boto3_session() if credentials else boto3.Session()
        return session.client("ecr", region_name=region)
    except (ClientError, BotoCoreError) as error:
        raise RegistryDenied(f"no AWS credentials for ECR: {error}; check them in the registry's block") from error
