"""HTTP: the gate, the dialects, and what an operator looks at."""
