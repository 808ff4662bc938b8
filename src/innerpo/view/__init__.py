"""A local server that shows the runs beneath a folder while they train and are scored. It reads and never writes."""
