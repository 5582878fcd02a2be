"""Who vouches for images: a private key, which nothing shows."""

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, model_validator

from modelyard.signing.keys import SigningKey as Key


class SigningKey(Block):
    """A private key that modelcars are signed with."""

    _block_type_name: ClassVar[str | None] = "Modelyard Signing Key"
    _block_type_slug: ClassVar[str | None] = "modelyard-signing-key"
    _logo_url = HttpUrl("https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png")
    _documentation_url = HttpUrl("https://docs.sigstore.dev/cosign/key_management/signing_with_self-managed_keys/")
    _description = "A private key that modelcars are signed with."

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    private_key: SecretStr = Field(
        description="PEM text of an ECDSA key on P-256: cosign.key of `cosign generate-key-pair`, or PKCS #8, encrypted or not."
    )
    password: SecretStr = Field(default=SecretStr(""), description="Password of the key; empty: it has none.")

    @model_validator(mode="after")
    def _opens(self) -> "SigningKey":
        self.key()
        return self

    def key(self) -> Key:
        """The key itself.

        Raises:
            ValueError: the text is none, or the password is wrong.
        """
        return Key.load(self.private_key.get_secret_value(), self.password.get_secret_value())
