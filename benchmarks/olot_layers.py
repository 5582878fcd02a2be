"""olot, a layer for each file: ``python -m benchmarks.olot_layers LAYOUT MODELS``."""

import sys
from pathlib import Path

from olot.basics import oci_layers_on_top

if __name__ == "__main__":
    models = Path(sys.argv[2])
    oci_layers_on_top(sys.argv[1], sorted(path for path in models.rglob("*") if path.is_file()), root_dir=models)
