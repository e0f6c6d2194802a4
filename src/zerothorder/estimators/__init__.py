"""Which points, and what do their values mean? One estimator a function, each a generator over a step."""
