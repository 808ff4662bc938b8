"""The screen: ``innerpo sweep studies/screen.yaml``; its archived runs, and the tables made of them."""
