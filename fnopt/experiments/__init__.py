"""Experiments that print a table, draw a picture and keep their numbers; the `fnopt` command runs them.

compare   the rules against torch.optim: curves, ulp, time, memory       task      what is trained: model, loss, data
sweep     many runs as one ensemble, and the same one after another      programs  one run, by torch and by fnopt
profile   float32 against bfloat16 and float16, and a trace              measure   ulp, peak memory, seconds, traces
curves    runs from their logs, on top of each other                     output    tables, JSONL, pictures
plan      what a run is going to do
"""
