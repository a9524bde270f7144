"""What an exit's word is worth, over arrays: chances, thresholds, and what they guarantee."""
