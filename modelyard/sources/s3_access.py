"""What S3 objects are read with, where that is not the environment's."""

from dataclasses import dataclass, field

from botocore.credentials import Credentials


@dataclass(frozen=True, slots=True)
class S3Access:
    """boto3's credentials (None: those of the environment), and an authority as PEM text (None: AWS_CA_BUNDLE, or the public ones)."""

    credentials: Credentials | None = field(default=None, repr=False)
    authority: str | None = None
