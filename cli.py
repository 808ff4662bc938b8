"""`python cli.py ...` from a checkout is the installed command `innerpo ...`."""

from innerpo.cli.verbs import entry

if __name__ == "__main__":
    entry()
