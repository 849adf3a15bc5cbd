"""Studies on the side, each in a file of its command's name and one or two beside it."""
