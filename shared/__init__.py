"""What the edge and the cloud must agree on: errors, wire, model partition, decoding. No service
logic.
"""
