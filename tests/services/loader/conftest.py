"""What the loader's tests share."""

from tests.services.fault_proxy import fault_proxy
from tests.services.s3_fixtures import bucket, certificates, loader, plain_http_server, s3_api, s3_server, versioned_bucket

__all__ = ["bucket", "certificates", "fault_proxy", "loader", "plain_http_server", "s3_api", "s3_server", "versioned_bucket"]
