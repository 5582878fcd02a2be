"""Keys: ECDSA on P-256 with SHA-256, which both cosign and model_signing use. A private key is never shown."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import Self

import nacl.secret
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from nacl.exceptions import CryptoError

_COSIGN = re.compile(r"-----BEGIN ENCRYPTED (?:COSIGN|SIGSTORE) PRIVATE KEY-----\s+(.+?)-----END ", re.DOTALL)
_PUBLIC = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
#: Scrypt takes 128 * N * r bytes; cosign writes N = 65536 and r = 8, which is 64 MiB.
_MOST_SCRYPT = 512 * 1024 * 1024
_SECRET_BYTES = 32


class PublicKey:
    """A key that signatures are checked with."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key
        self.pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def hint(self) -> str:
        """How bundles name the key: the SHA-256 of its PEM text. https://github.com/sigstore/protobuf-specs"""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Whether ``signature`` is one of this key over ``content``."""
        try:
            self._key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"PublicKey({self.hint[:12]})"


class SigningKey:
    """A private key. Signatures are deterministic (RFC 6979): the same content gives the same bytes, so that signing twice adds nothing."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def load(cls, pem: str, password: str = "") -> Self:
        """The key in ``pem``: as `cosign generate-key-pair` writes it, or PKCS #8 or SEC 1 as openssl does, encrypted or not.

        Raises:
            ValueError: it is no such key, or the password is wrong. Nothing of either is told.
        """
        try:
            key = _load(pem.strip(), password.encode())
        except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm, CryptoError):
            raise ValueError(
                "holds no private key in PEM form that this password opens; paste the whole text of cosign.key, or of a PKCS #8 key"
            ) from None  # what failed to parse is a secret
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("is no ECDSA key on the curve P-256; make one with `cosign generate-key-pair`")  # noqa: TRY004 - of the text
        return cls(key)

    def sign(self, content: bytes) -> bytes:
        """The signature over ``content``, in DER."""
        return self._key.sign(content, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def derived(self, purpose: str) -> bytes:
        """A secret for one purpose, from which nothing of the key can be told."""
        value = self._key.private_numbers().private_value.to_bytes(_SECRET_BYTES, "big")
        return hmac.digest(value, f"modelyard: {purpose}".encode(), "sha256")

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hint[:12]})"


def read_public_keys(text: str) -> tuple[PublicKey, ...]:
    """The public keys in a text of one or more in PEM form: two while one takes another's place.

    Raises:
        ValueError: it holds none, or one of another kind.
    """
    keys = tuple(PublicKey(_public(pem)) for pem in _PUBLIC.findall(text))
    if not keys:
        raise ValueError("holds no public key in PEM form; paste the text of cosign.pub, from -----BEGIN PUBLIC KEY----- to the end")
    return keys


def hints(keys: Iterable[PublicKey]) -> str:
    """Keys as people compare them."""
    return ", ".join(key.hint[:12] for key in keys)


def _public(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("holds a public key that cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("holds a public key that is none of ECDSA on the curve P-256")  # noqa: TRY004 - of the text
    return key


def _load(pem: str, password: bytes) -> object:
    if not (found := _COSIGN.search(pem)):
        return serialization.load_pem_private_key(pem.encode(), password or None)
    return serialization.load_der_private_key(_opened(base64.b64decode(found[1]), password), None)


def _opened(box: bytes, password: bytes) -> bytes:
    """What is in a cosign key: https://github.com/secure-systems-lab/go-securesystemslib/tree/main/encrypted"""
    told = json.loads(box)
    kdf, cipher = told["kdf"], told["cipher"]
    cost, block, parallel = (int(kdf["params"][name]) for name in ("N", "r", "p"))
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox") or 128 * cost * block > _MOST_SCRYPT:
        raise ValueError(kdf["name"])
    secret = Scrypt(base64.b64decode(kdf["salt"]), _SECRET_BYTES, cost, block, parallel).derive(password)
    return nacl.secret.SecretBox(secret).decrypt(base64.b64decode(told["ciphertext"]), base64.b64decode(cipher["nonce"]))
