"""One repository of a registry: manifests, tags, blobs. Each request is small and tried again; uploads of layers are in ``uploads``."""

from collections.abc import Generator
from http import HTTPStatus
from typing import Self

from urllib3.exceptions import HTTPError

from modelyard.errors import ContentMismatch, ModelyardError, RegistryMissing, RegistryRefused
from modelyard.images.descriptors import MANIFESTS, Descriptor, Document, digest_of
from modelyard.images.references import Reference
from modelyard.oci.access import Access
from modelyard.oci.answers import network_error
from modelyard.oci.bodies import MAX_ANSWER, drained, dropped
from modelyard.oci.http import Http, Patience
from modelyard.oci.uploads import Upload

#: What registries take, in bytes.
MAX_MANIFEST = MAX_ANSWER
_READ_SIZE = 1024 * 1024
_FOUND = {HTTPStatus.OK}
_GONE = {HTTPStatus.ACCEPTED, HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND}


class Repository:
    """A repository, reached as ``access`` says; to be closed. Threads may share it."""

    def __init__(self, access: Access, name: str, patience: Patience | None = None, http: Http | None = None) -> None:
        self.name = name
        self.patience = patience or Patience()
        self.http = http or Http(access, self.patience.answer)
        self.scopes = (f"repository:{name}:pull,push",)

    @classmethod
    def of(cls, access: Access, reference: Reference, patience: Patience | None = None, http: Http | None = None) -> "Repository":
        """The reference's repository, to be read: no right to push is asked for."""
        repository = cls(access, reference.repository, patience, http)
        repository.scopes = (f"repository:{reference.repository}:pull",)
        return repository

    def close(self) -> None:
        """Close its connections, and those of all who share them."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{self.http.access.host}/{self.name}"

    # Manifests ------------------------------------------------------------------------------------------------------

    def digest(self, tag: str) -> str | None:
        """The digest that a tag names now, or None."""
        document = self.find(tag)
        return document.digest if document else None

    def find(self, selector: str) -> Document | None:
        """The manifest or index under a tag or digest, or None if there is none."""
        try:
            return self.patience.through(lambda: self._get(selector))
        except RegistryMissing:
            return None

    def _get(self, selector: str) -> Document:
        subject = f"{self}{'@' if ':' in selector else ':'}{selector}"
        headers = {"Accept": ", ".join(MANIFESTS)}
        response = self.http.request("GET", f"/v2/{self.name}/manifests/{selector}", self.scopes, headers=headers)
        self.http.expect(_FOUND, response, subject)
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise RegistryRefused(f"{subject}: comes packed ({encoding}), which was not asked for: switch that off in the proxy before it")
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if media_type not in MANIFESTS:
            raise RegistryRefused(f"{subject}: is a {media_type or 'document of no type'}, which is no image")
        document = Document(media_type=media_type, content=response.data)
        if ":" in selector and document.digest != selector:
            raise ContentMismatch(f"{subject}: the registry answers with {document.digest}")
        return document

    def put_manifest(self, media_type: str, content: bytes, selector: str) -> str:
        """Put a manifest or index under a tag or its digest, and see that the registry has these bytes; its digest."""

        def put() -> str:
            path = f"/v2/{self.name}/manifests/{selector}"
            response = self.http.request("PUT", path, self.scopes, headers={"Content-Type": media_type}, body=content)
            self.http.expect({HTTPStatus.CREATED}, response, f"{self}: manifest {selector}")
            found = self._get(selector).digest
            if found != digest_of(content):
                raise ContentMismatch(f"{self}: {selector} names {found} right after {digest_of(content)} was put there")
            return found

        return self.patience.through(put)

    def delete_manifest(self, digest: str) -> bool:
        """Delete a manifest and every tag that names it; False where the registry does not delete."""
        scopes = (f"repository:{self.name}:delete",)
        try:
            response = self.http.request("DELETE", f"/v2/{self.name}/manifests/{digest}", scopes)
        except ModelyardError:
            return False
        return response.status in _GONE

    # Blobs ----------------------------------------------------------------------------------------------------------

    def has(self, digest: str, size: int) -> bool:
        """Whether the repository has the blob, whole."""

        def head() -> bool:
            response = self.http.request("HEAD", f"/v2/{self.name}/blobs/{digest}", self.scopes)
            if response.status == HTTPStatus.NOT_FOUND:
                return False
            self.http.expect(_FOUND, response, f"{self}@{digest}")
            return response.headers.get("Content-Length") in {str(size), None}

        return self.patience.through(head)

    def mount(self, digest: str, origin: str) -> bool:
        """Have the blob of repository ``origin`` of the same registry here too; False if the registry does not, or may not."""
        scopes = (*self.scopes, f"repository:{origin}:pull")

        def post() -> bool:
            path = f"/v2/{self.name}/blobs/uploads/?mount={digest}&from={origin}"
            response = self.http.request("POST", path, scopes, headers={"Content-Length": "0"})
            if response.status == HTTPStatus.CREATED:
                return True
            if response.status == HTTPStatus.ACCEPTED:  # it began an upload instead
                Upload(self.http, self.scopes, response.headers.get("Location", ""), f"{self}@{digest}").abandon()
            return False

        return self.patience.through(post)

    def begin_upload(self, subject: str) -> Upload:
        """A new upload; one request, not tried again."""
        response = self.http.request("POST", f"/v2/{self.name}/blobs/uploads/", self.scopes, headers={"Content-Length": "0"})
        self.http.expect({HTTPStatus.ACCEPTED}, response, f"{self}: {subject}")
        return Upload(self.http, self.scopes, response.headers.get("Location", ""), f"{self}: {subject}")

    def put_blob(self, content: bytes) -> None:
        """Have a small blob here: nothing is sent if it is."""
        digest = digest_of(content)
        if not self.has(digest, len(content)):
            self.patience.through(lambda: self.begin_upload(digest).put(content, digest))

    def get_blob(self, descriptor: Descriptor, longest: int = MAX_MANIFEST) -> bytes:
        """A small blob, compared with its digest.

        Raises:
            RegistryRefused: it is longer than ``longest``.
        """
        if descriptor.size > longest:
            raise RegistryRefused(
                f"{self}@{descriptor.digest}: {descriptor.size} bytes are more than the {longest} that such a blob may have"
            )

        def get() -> bytes:
            content = b"".join(self.stream_blob(descriptor))
            if digest_of(content) != descriptor.digest:
                raise ContentMismatch(f"{self}@{descriptor.digest}: what arrived has another digest")
            return content

        return self.patience.through(get)

    def stream_blob(self, descriptor: Descriptor) -> Generator[bytes]:
        """A blob's bytes as they come, once, not compared with anything but the size."""
        subject = f"{self}@{descriptor.digest}"
        response = self.http.stream(_FOUND, f"/v2/{self.name}/blobs/{descriptor.digest}", self.scopes, subject)
        count = 0
        try:
            while count <= descriptor.size and (chunk := response.read(_READ_SIZE, decode_content=False)):
                count += len(chunk)
                yield chunk
        except HTTPError as error:
            raise network_error(error, subject) from error
        finally:
            drained(response) if count == descriptor.size else dropped(response)
        if count != descriptor.size:
            raise ContentMismatch(f"{subject}: {count} bytes arrived, {descriptor.size} were told")
