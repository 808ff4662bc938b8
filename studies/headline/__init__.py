"""The headline study: ``innerpo sweep studies/headline.yaml``; its archived runs, and the tables made of them."""
