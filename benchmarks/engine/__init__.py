"""Engine steps held against the bare matrix products of the same shapes, and against `generate`."""
