"""A checkpoint on text nobody fitted anything on: what exits and end say, measured and told."""
