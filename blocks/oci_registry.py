"""Where images go: a registry, with the credentials and the authority to reach it."""

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.certificates import checked_authority
from modelyard.errors import RegistryDenied
from modelyard.images.references import api_host, host_problem
from modelyard.oci.access import Access, Credentials, Keychain, credentials_for, read_docker_config
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
        return self

    def keychain(self) -> Keychain:
        """How this registry, and others that the docker config names, are reached."""
        others = read_docker_config(self.docker_config.get_secret_value()) if self.docker_config else {}
        own = Credentials(self.username, self.password.get_secret_value()) if self.username and self.password else None
        access = Access(api_host(self.host), self.plain_http, self.ca_certificate, own or credentials_for(self.host, others))
        return Keychain(access, others)

    def public_keys(self) -> tuple[PublicKey, ...]:
        """The keys of which one must have signed an image; none if signatures are not asked for."""
        return read_public_keys(self.trusted_keys) if self.trusted_keys else ()
