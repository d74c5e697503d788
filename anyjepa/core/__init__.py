"""The mathematics: tensors in, tensors out. No files, no training loop, no names of kinds of data."""
