"""The published layouts of the weights as tables: which name is which, one file for each project."""
