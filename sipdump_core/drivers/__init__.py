"""What a driver is, and how installed ones are found."""
