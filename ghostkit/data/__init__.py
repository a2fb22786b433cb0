"""What a network learns from: data sets by name or from a folder, split, normalised, and passed over in batches."""

from ghostkit.data.catalog import sources
from ghostkit.data.loading import ImageData, load
from ghostkit.data.splits import Split, batch_count, batches

__all__ = ["ImageData", "Split", "batch_count", "batches", "load", "sources"]
