"""Pure update rules, one idea per file, and the wrappers that make an Optimizer of an Optimizer."""
