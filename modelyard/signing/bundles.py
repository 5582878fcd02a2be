"""Bundles: a statement, and a signature over it. https://github.com/sigstore/protobuf-specs, https://github.com/secure-systems-lab/dsse"""

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelyard.images.descriptors import canonical
from modelyard.signing.keys import PublicKey, SigningKey

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"


class _Read(BaseModel):
    """What others may write more into than is read here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Subject(_Read):
    """What a statement is about."""

    name: str = ""
    digest: dict[str, str]


class Statement(_Read):
    """An in-toto statement. https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md"""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = Field(alias="predicateType")
    predicate: dict[str, Any] = Field(default_factory=dict)

    def is_about(self, digest: str) -> bool:
        """Whether the image of this digest is one of its subjects."""
        return any(f"sha256:{each.digest.get('sha256')}" == digest for each in self.subject)


class _Signature(_Read):
    sig: str


class _Envelope(_Read):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: Annotated[tuple[_Signature, ...], Field(max_length=20)]


class _Bundle(_Read):
    dsse: _Envelope = Field(alias="dsseEnvelope")


def make_statement(subjects: Iterable[dict[str, Any]], predicate_type: str, predicate: dict[str, Any]) -> bytes:
    """A statement's bytes."""
    return canonical({"_type": _STATEMENT, "subject": list(subjects), "predicateType": predicate_type, "predicate": predicate})


def make_bundle(statement: bytes, key: SigningKey) -> bytes:
    """The bundle of a statement, without a place in any log."""
    envelope = {
        "payload": base64.b64encode(statement).decode(),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": base64.b64encode(key.sign(_signed(statement))).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": key.public.hint}, "tlogEntries": []}
    return canonical({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope})


def open_bundle(content: bytes, keys: Iterable[PublicKey]) -> tuple[Statement, PublicKey | None] | None:
    """A bundle's statement, and which of ``keys`` signed it, or None if no signature is one of theirs: what it says then is worth nothing.

    None altogether if it is no bundle of a statement.
    """
    try:
        envelope = _Bundle.model_validate_json(content).dsse
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [base64.b64decode(each.sig, validate=True) for each in envelope.signatures]
        statement = Statement.model_validate(json.loads(payload))
    except (ValidationError, binascii.Error, ValueError, RecursionError):
        return None
    signed = _signed(payload)
    return statement, next((key for key in keys for each in signatures if key.verifies(each, signed)), None)


def _signed(payload: bytes) -> bytes:
    """What the signature is over: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md"""
    return b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)
