"""Images: folder layouts, splits, reading, transforms, synthetic categories, the datamodules."""
