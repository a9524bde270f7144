"""`tandem evaluate`: how good a checkpoint, its exits and each way of serving it are on a file."""
