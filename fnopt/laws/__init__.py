"""Laws of optimizer math, as plain functions, and the Hypothesis strategies that draw their cases.

`check` tries all that apply. A law can be called alone: `law_pure(MyOptimizer(0.1), case)` raises BrokenLawError or
returns None. Each says in its docstring what must hold, and with what tolerance; `LAWS` says on what values.

>>> from fnopt import laws
>>> case = laws.Case(params={"w": torch.ones(2)}, grads=[{"w": torch.ones(2)}])
>>> laws.law_zero_lr_moves_nothing(fnopt.AdamW(0.1), case)
"""

from . import _extra as _extra

# the laws of optimizers and transforms: the order of the table, for one that is not pure breaks others as well
from .purity import law_deterministic as law_deterministic
from .purity import law_gradients_stay_as_they_were as law_gradients_stay_as_they_were
from .purity import law_pure as law_pure
from .structure import law_eval_params_are_shaped_as_params as law_eval_params_are_shaped_as_params
from .structure import law_leaves_keep_their_form as law_leaves_keep_their_form
from .structure import law_state_keeps_its_form as law_state_keeps_its_form
from .structure import law_step_counts_updates as law_step_counts_updates
from .scope import law_entries_do_not_meet as law_entries_do_not_meet
from .scope import law_leaves_do_not_meet as law_leaves_do_not_meet
from .scope import law_memory_goes_by_name as law_memory_goes_by_name
from .scope import law_names_do_not_matter as law_names_do_not_matter
from .scope import law_packed_is_plain as law_packed_is_plain
from .scope import law_order_of_names_does_not_matter as law_order_of_names_does_not_matter
from .scope import law_sums_are_over_all_entries as law_sums_are_over_all_entries
from .members import law_members_have_their_own_numbers as law_members_have_their_own_numbers
from .members import law_vmap_is_loop as law_vmap_is_loop
from .optimizer import law_descends_on_a_quadratic as law_descends_on_a_quadratic
from .optimizer import law_gradients_move_the_state as law_gradients_move_the_state
from .optimizer import law_negated_gradients_move_the_other_way as law_negated_gradients_move_the_other_way
from .optimizer import law_schedules_are_read_at_the_count as law_schedules_are_read_at_the_count
from .optimizer import law_zero_gradients_move_nothing as law_zero_gradients_move_nothing
from .optimizer import law_zero_lr_moves_nothing as law_zero_lr_moves_nothing
from .formulas import law_decay_is_as_documented as law_decay_is_as_documented
from .formulas import law_equals_the_reference as law_equals_the_reference
from .formulas import law_scale_of_gradients_does_not_matter as law_scale_of_gradients_does_not_matter
from .hypergradients import law_hypergradients_are_finite as law_hypergradients_are_finite
from .saving import law_resumed_is_continued as law_resumed_is_continued
from .saving import law_resumed_step_is_continued as law_resumed_step_is_continued
from .saving import law_saved_state_comes_back as law_saved_state_comes_back
from .wrappers import law_average_stays_within as law_average_stays_within
from .wrappers import law_chain_is_a_monoid as law_chain_is_a_monoid
from .wrappers import law_frozen_never_moves as law_frozen_never_moves
from .wrappers import law_partition_is_separate_runs as law_partition_is_separate_runs
from .clip import law_below_the_bound_nothing_changes as law_below_the_bound_nothing_changes
from .clip import law_clipping_keeps_the_direction as law_clipping_keeps_the_direction
from .clip import law_clipping_twice_is_clipping_once as law_clipping_twice_is_clipping_once
from .clip import law_entries_are_bounded as law_entries_are_bounded
from .clip import law_entries_within_the_bound_stay as law_entries_within_the_bound_stay
from .clip import law_norm_is_bounded as law_norm_is_bounded

# of schedules, GradFns and steps
from .schedule import law_schedule_gives_one_finite_number as law_schedule_gives_one_finite_number
from .schedule import law_schedule_has_random_access as law_schedule_has_random_access
from .schedule import law_schedule_is_pure as law_schedule_is_pure
from .schedule import law_schedule_stays_within_its_rates as law_schedule_stays_within_its_rates
from .schedule import law_schedule_under_vmap_is_a_loop as law_schedule_under_vmap_is_a_loop
from .grad_fn import law_call_is_a_function as law_call_is_a_function
from .grad_fn import law_gradients_are_shaped_as_params as law_gradients_are_shaped_as_params
from .grad_fn import law_gradients_of_examples_add_up as law_gradients_of_examples_add_up
from .grad_fn import law_loss_scale_is_invisible as law_loss_scale_is_invisible
from .grad_fn import law_no_examples_count_nothing as law_no_examples_count_nothing
from .step import law_compiled_is_eager as law_compiled_is_eager
from .step import law_no_examples_change_nothing as law_no_examples_change_nothing
from .step import law_nonfinite_never_enters as law_nonfinite_never_enters
from .step import law_overflow_is_forgotten as law_overflow_is_forgotten
from .step import law_step_is_one_update_along_the_mean as law_step_is_one_update_along_the_mean
from .step import law_two_clocks as law_two_clocks

# what tries them
from .law import LAWS as LAWS
from .law import BrokenLawError as BrokenLawError
from .law import Law as Law
from .law import law as law
from .case import Calls as Calls
from .case import Case as Case
from .case import Steps as Steps
from .strategies import calls as calls
from .strategies import cases as cases
from .strategies import steps as steps
from .strategies import tensors as tensors
from .trial import Finding as Finding
from .trial import try_law as try_law
from .check import Report as Report
from .check import as_tests as as_tests
from .check import check as check
