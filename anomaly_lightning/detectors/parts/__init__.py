"""Parts that detectors are composed of: streamed statistics, grid operations, small networks. No detector is known here."""
