"""One forward pass: attention masks, log-probabilities of completions, hidden states, layouts of rows."""
