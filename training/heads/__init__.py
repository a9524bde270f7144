"""What learns beside a model that stays as it is: exits of other checkpoints, and drafters."""
