"""What is known of the findings of audit.py: judged one by one, and seen again without fnopt."""

INTRO = """
# Other libraries under the laws

Made by `python tests/bench/audit.py --out docs/audit.md`. It runs the laws of `fnopt.laws` on optimizers of
torch.optim, TorchOpt, pytorch_optimizer and HeavyBall, with their default arguments unless shown. A library that is
not installed is a missing row. To run it, in an environment of its own:

```sh
pip install torch==2.13.0 attrs hypothesis torchopt pytorch_optimizer heavyball && pip install -e . --no-deps
OMP_NUM_THREADS=1 python tests/bench/audit.py --out docs/audit.md
```

A broken law is no verdict. Some of these laws are promises that only fnopt makes, and a peer that never made one breaks
no word; some findings are documented choices; some are mistakes. Beside each stands which, as far as we know, and how
it was seen again by plain calls of the library. 50 small cases are no proof that a law holds.

How they are run: optimizers of torch.optim and all that subclass it live on two parameters `w` and `b`; a resumed one
has gone through `state_dict` and `load_state_dict`. TorchOpt is functional (`init`, `update`, `apply_updates`):
its rules are wrapped so that their nested state is a flat dict of tensors by path, Python numbers as tensors, and so
that each new state has a new rule, as it has in a new process. HeavyBall runs without torch.compile. First come float32
and float64 (laws of formulas run in float64 whatever is drawn), then bfloat16, then float16, the latter two with
gradients of the same dtype or of float32. `reference` means: compared with fnopt's rule of that name in float64, within
1e-9. A law that broke in one column of the table is not named again to its right; how many were held and not tried
(they do not apply, or the optimizer is excused) counts float32 and float64.
"""

LEFT_OUT = """
Optimizers with modes, closures or a second pass (schedule-free ones, SAM, Sophia) were not tried. HeavyBall's SOAP was,
and is left out: on a float64 matrix its second update raises "expected scalar type Double but found Float", so that no
law of formulas can run, and the others take minutes.
"""

NAN16 = """Real. In float16 the default eps is 0 (the smallest number is 6e-8), so an entry whose gradient has
always been 0 is divided 0 / 0, also with lr = 0. Seen also without fnopt: one step on `torch.zeros(1,
dtype=torch.float16)` with a gradient of zeros gives nan (for AdaBound with lr = 0 only)."""
DTYPE = """Real. `apply_updates` adds what `update` gives, in the wider dtype of the two: a float32 gradient
makes a half precision parameter float32, though its docstring says "same structure, shape and type as
params". For adam, adamw and adagrad a 0-d parameter does so with a gradient of its own dtype too, because
what divides it is a 0-d float32 tensor. Seen also without fnopt: sgd with `torch.zeros(1,
dtype=torch.bfloat16)` and a float32 gradient, and adam with both 0-d bfloat16, return float32."""
DRIFT = """Follows from the change of dtype under law_leaves_keep_their_form: the state changes its dtype with
it (or the parameters do, and a state made for them anew is another), so what is saved is not of the state's
first form."""
FIRST = """Real. The rule keeps the flag `first_call` in a closure, not in its state: a new rule with a loaded
state adds the gradient to the trace without multiplying the trace by the momentum. Seen also without fnopt:
`sgd(lr=0.1, momentum=0.9)`, gradients of 1: the second update is -0.19 by the same rule, and -0.2 by a new
one with the same state."""
FLOAT32 = """Real. HeavyBall computes float64 parameters in float32 (lr, state and arithmetic): about 1e-8
off, more than the law's 1e-9 in float64. The formula itself is the documented one. Seen also without fnopt:
`SGD(lr=0.1)` moves a float64 0 by -0.10000000149011612 along 1."""
STOCHASTIC = """By design: HeavyBall rounds bfloat16 stochastically, with draws from torch's global generator,
so two runs differ in last bits. Seen also without fnopt: two steps of AdamW along 1 end at -0.0050 or -0.0049
by the seed."""
CONSUMED = """By design: HeavyBall sets `p.grad` to None (its class attribute `consume_grad` is True). Seen
also without fnopt: after `step()`, `p.grad is None`."""
CAST = """Real. HeavyBall holds its state in float32, and `load_state_dict` of torch.optim casts it to the
dtype of the parameter. In float64 that changes what it computes in; in half precision it rounds the state,
and laws break there too. Seen also without fnopt: exp_avg of AdamW on a float16 parameter is float32, and
float16 after `load_state_dict`."""
YOGI = """Real, and documented as `initial_accumulator`: both moments begin at 1e-6, the first one too, so it
walks towards minus infinity until gradients outweigh that. Seen also without fnopt: one step with a gradient
of 0 moves 0 to -2.76e-06."""

NOTES = [  # laws, where (searched in: library `optimizer` (pass)), what is known
    ("law_zero_lr_moves_nothing law_zero_gradients_move_nothing", r"\(float16\)", NAN16),
    (
        "law_zero_lr_moves_nothing",
        "Rprop",
        """By design: lr is only the first step size, clipped to `step_sizes`, whose default begins at 1e-6.
Seen also without fnopt: `Rprop(lr=0.0)` moves 0 to -1e-06 along 1.""",
    ),
    (
        "law_resumed_is_continued",
        "torch `NAdam",
        """Real. `mu_product` is a float32 tensor, and `load_state_dict` casts it to the dtype of the
parameter; the run goes on in float64 arithmetic where it was in float32. Seen also without fnopt: on a
float64 0 along 1 and 1, -0.0036802722646995805, and through a copied `state_dict` -0.003680272265205047.""",
    ),
    (
        "law_resumed_is_continued",
        "QHAdam",
        """Real. Its weights of bias correction are float32 tensors of shape [1], and `load_state_dict` casts
them to float64. Seen also without fnopt: along 1 and 3, -0.0019177811393032615, and through a copied
`state_dict` -0.0019177811048766836.""",
    ),
    (
        "law_equals_the_reference",
        "QHAdam",
        """Real, and small: with its default nus = (1, 1) it is Adam, but for bias correction in float32 also
of float64 parameters: 3e-8 off. Seen also without fnopt: along 1 and 0, -0.001670058191961015;
torch.optim.Adam gives -0.0016700582346581131.""",
    ),
    (
        "law_gradients_stay_as_they_were",
        "StableAdamW",
        """Real: with `kahan_sum` (the default), in bfloat16 and float16, it uses the gradient as scratch
space. Who reads `p.grad` after the step, or accumulates on it, reads something else. Seen also without fnopt:
a gradient of 1 is 0.001 after the step; in float32 it stays.""",
    ),
    (
        "law_zero_gradients_move_nothing law_negated_gradients_move_the_other_way law_descends_on_a_quadratic",
        "Yogi",
        YOGI,
    ),
    (
        "law_decay_is_as_documented",
        "pytorch_optimizer `LaProp",
        """Real: decoupled decay is applied after the step, to the moved parameter, and not before it as in
its AdamW. Seen also without fnopt: from 0 along 1 with lr = 0.01, -0.01 without decay and -0.00999 with 0.1.""",
    ),
    (
        "law_scale_of_gradients_does_not_matter",
        "LaProp",
        """Real, and small: beside eps a second one, 1e-15 inside the root, is no argument and stays when eps
= 0. Seen also without fnopt: along 0.0009765625 and along four times that, -0.00039999979 and -0.00039999999.""",
    ),
    (
        "law_decay_is_as_documented",
        "heavyball `NAdam",
        """Real, a mistake as far as we can tell: without `decoupled_weight_decay` (the default), wd p is
added to the gradient, and then wd p is also subtracted from the finished update, which pushes the parameter
away from 0. Seen also without fnopt: from 1 along 0 with lr = 0.01 and decay 0.1, 0.990435; along wd p itself
without decay, 0.989435, as torch.optim.NAdam gives with decay; the difference is lr wd p.""",
    ),
    ("law_decay_is_as_documented law_equals_the_reference", "heavyball", FLOAT32),
    ("law_deterministic law_negated_gradients_move_the_other_way", r"heavyball .*bfloat16", STOCHASTIC),
    ("law_gradients_stay_as_they_were", "heavyball", CONSUMED),
    ("law_resumed_is_continued", "heavyball", CAST),
    (
        "law_equals_the_reference",
        "TorchOpt.'adam",
        """Real: `1 - beta ** count` is computed in float32, whatever the dtype of the parameter, 7e-6 off at
the first update of a float64 one. Seen also without fnopt: from 0 along 1, `adam()` gives
-0.000999993314260788, where the formula gives -0.00099999999.""",
    ),
    ("law_leaves_keep_their_form", "TorchOpt", DTYPE),
    ("law_resumed_is_continued", r"TorchOpt.'sgd'", FIRST),
    (
        "law_vmap_is_loop",
        r"TorchOpt.'sgd'.*dampening.*float64",
        """Real, by the flag `first_call` of the rule (see law_resumed_is_continued): dampening is left out in its
first call only, whatever the state, and here the two members under vmap are its first call.""",
    ),
    (
        "law_vmap_is_loop",
        r"TorchOpt.*(bfloat16|float16)",
        """Follows from the change of dtype under law_leaves_keep_their_form, where what is 0-d alone is a
vector under vmap and keeps its dtype. The case with nan in it is a false alarm: the law's tolerance is
relative to the largest entry, here nan.""",
    ),
    ("law_state_keeps_its_form law_saved_state_comes_back law_resumed_is_continued", "TorchOpt", DRIFT),
]
