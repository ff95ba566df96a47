"""A model as data: the program, its passes, the architectures; no array library."""
