"""Claims, StorageClasses and capacity."""
