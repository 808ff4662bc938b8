"""Items to tensors: which items share a row, which run together, and the tensors themselves."""
