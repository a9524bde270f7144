"""The recipe of the reference model: corpus, training with early exits, export, measurement, card.

It makes ordinary Hugging Face checkpoint folders with exits beside them, and knows nothing of the
two services that later run such a folder from two machines.
"""
