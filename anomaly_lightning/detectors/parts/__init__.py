"""What detectors are composed of: streamed statistics, grid operations, small networks."""
