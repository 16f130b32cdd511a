"""A step as kernels: traced, packed, donated, cached. Only `compiled` is public.

compiled    the StepFn that a user holds           engine    one call: what runs, what is made, what is handed over
cache       programs, by what they do and for what shapes    kind      what of a step is structure, what are numbers
body        the functions that are traced          program   a function of lists of tensors, traced and compiled
layout      where each parameter lies in its buffer          held      memory that the next state is written into
passes      what is changed in a graph first       interrupt Ctrl-C waits for a whole state
"""

from .compiled import Compiled as Compiled
from .compiled import compiled as compiled
