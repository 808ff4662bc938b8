"""`python -m innerpo ...` is the installed command `innerpo ...`."""

from innerpo.cli import entry

if __name__ == "__main__":
    entry()
