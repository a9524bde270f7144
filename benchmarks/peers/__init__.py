"""Other people's software on the same weights, prompts and cores, as peers of our deployments."""
