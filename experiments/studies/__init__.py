"""Studies outside the tables, each in a file of its command's name and one or two more."""
