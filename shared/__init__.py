"""What the edge and the cloud must agree on: errors, wire, model partition, decoding. No service
logic.
"""

# Of the whole project; a test holds that pyproject.toml says the same.
__version__ = "0.1.0"
