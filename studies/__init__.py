"""Studies: measurements with a script, stored figures and a table made from them. Not part of the wheel."""
