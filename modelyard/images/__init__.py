"""Container images as values: layers whose size is known before a byte is read, configs, manifests, references. Nothing here does I/O."""
