"""Pure gradient transforms, one idea per file, and `chain`, which strings them together."""
