"""Methods: a loss made of named terms, a transform of states, and an optional edit of gradients."""
