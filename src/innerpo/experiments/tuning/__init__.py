"""The search for a method's options on a held-out part of the training split; no target set takes part in it."""
