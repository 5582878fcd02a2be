"""What blocks that hold an AwsCredentials have to do beside it."""

from typing import Any

from pydantic import SecretStr, SerializationInfo


def without_session_token(dumped: dict[str, Any], info: SerializationInfo) -> dict[str, Any]:
    """A dumped AwsCredentials as the API may show it: its session token is plain text in prefect-aws, where it should be a SecretStr."""
    saving = bool(info.context and info.context.get("include_secrets"))
    if saving or not dumped.get("aws_session_token"):
        return dumped
    return {**dumped, "aws_session_token": str(SecretStr("hidden"))}
