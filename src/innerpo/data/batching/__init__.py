"""From items to tensors: which items share a row, which form a batch, and the batch's tensors."""
