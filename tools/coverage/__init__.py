"""How often intervals of innerpo.evaluation.statistics cover the truth, on outcomes simulated from a probit model."""
