"""The published recipes: functions of the facts of a dataset, which name their source, result and cost.

`rule(num_examples, image_size, flags)` returns fields of a Recipe and of its task, and `steps`, `warmup_steps`, `base_lr` and
`schedule` (common/recipes/schedules.py, with its own numbers in `schedule_numbers`), from which the rates follow. A flag
replaces what it names, and only that; where a source makes its rate depend on the batch, `flags` holds the batch.

In all of them mixup differs from its sources on purpose: its partner is the neighbour (rows 2i and 2i + 1) where
big_vision takes the previous row, so that a batch may be cut anywhere; the weight is one for the whole batch, as there.
"""

from common.recipes import big_vision, bit, cappa, coyo, distill, flexi, image_text, uvim, vision_transformer

SOURCES = (bit, vision_transformer, big_vision, coyo, distill, flexi, image_text, cappa, uvim)
RULES = {rule.__name__: rule for source in SOURCES for rule in source.RECIPES}
