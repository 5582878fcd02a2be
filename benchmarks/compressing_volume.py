"""A file system on which zeros take hardly any room, for objects larger than the disk. It needs root, and btrfs-progs."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def compressing_volume(work: Path, size: int) -> Iterator[Path]:
    """A btrfs of ``size`` bytes with compression, on a sparse image in ``work``: 300 GB of zeros take some 10 GB of disk."""
    image, root = work / "compressing.img", work / "compressing"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    root.mkdir(exist_ok=True)
    subprocess.run(["mkfs.btrfs", "--quiet", "--metadata", "single", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop,compress-force=zstd:1", str(image), str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)
        image.unlink()
