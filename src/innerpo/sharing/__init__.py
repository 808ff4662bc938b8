"""Sharing: a run as a merged model, as a repository of the Hub, and as a LoRA adapter for llama.cpp."""
