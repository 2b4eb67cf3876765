"""The commands of `golf` that are not rooms of their own; each has `main(arguments)`."""
