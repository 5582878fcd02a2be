"""A tar of objects, made while they come from S3: ``python -m benchmarks.tar_stream ENDPOINT PREFIX S5CMD PATH=SIZE...``.

What a shell's pipe into ``crane append`` needs: no disk, and the sizes told beforehand.
"""

import subprocess
import sys
import tarfile


def main(endpoint: str, prefix: str, s5cmd: str, files: list[str]) -> None:
    """Write the tar to stdout; the bodies are s5cmd's own."""
    output = sys.stdout.buffer
    for file in files:
        path, _, size = file.rpartition("=")
        entry = tarfile.TarInfo(f"models/{path}")
        entry.size = int(size)
        output.write(entry.tobuf(tarfile.GNU_FORMAT))
        output.flush()
        subprocess.run([s5cmd, "--endpoint-url", endpoint, "cat", f"{prefix}/{path}"], check=True, stdout=output)
        output.write(bytes(-entry.size % tarfile.BLOCKSIZE))
    output.write(bytes(2 * tarfile.BLOCKSIZE))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
