"""Many runs as one piece of work: studies, their plans, and processes that share them by the files of one folder."""
