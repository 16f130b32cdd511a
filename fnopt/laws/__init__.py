"""Laws of optimizer math, as plain functions, and the Hypothesis strategies that draw their cases."""
