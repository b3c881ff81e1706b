"""The torch side as the runtime calls it: every function that the two twins share, in one module."""

from __future__ import annotations

from stepalign.workers.torch_worker.activations import record_activations
from stepalign.workers.torch_worker.checkpoint import (
    as_array,
    bare_module,
    read_random,
    read_state,
    write_random,
    write_state,
)
from stepalign.workers.torch_worker.clipping import clips_inside, used_gradients
from stepalign.workers.torch_worker.construction import (
    clipping_functions,
    constructed_classes,
    defer_compiler,
    give_gradients,
    import_deferred,
    sample_model,
)
from stepalign.workers.torch_worker.dropout import follow_modules, replace_dropout
from stepalign.workers.torch_worker.gradients import apply_gradients, check_parts, forget_names, hold_parameters
from stepalign.workers.torch_worker.hooks import watch_backward, watch_updates
from stepalign.workers.torch_worker.model import (
    cast_model,
    check_training,
    describe_tensors,
    join_models,
    keep_mode,
    read_buffers,
    read_gradients,
    read_parameters,
    set_mode,
    unwrap_model,
    write_tensors,
)
from stepalign.workers.torch_worker.modules import describe_modules, walk
from stepalign.workers.torch_worker.optimizer import clear_gradients, describe_optimizer, learning_rates
from stepalign.workers.torch_worker.optimizer_state import read_optimizer_state, write_optimizer_state
from stepalign.workers.torch_worker.scheduler import describe_scheduler, read_rates, step_scheduler, watches_loss
from stepalign.workers.torch_worker.settings import prepare, read_settings, version
from stepalign.workers.torch_worker.step import train_step
from stepalign.workers.torch_worker.tensors import copy_tensor, from_numpy, to_numpy

__all__ = [
    "apply_gradients",
    "as_array",
    "bare_module",
    "cast_model",
    "check_parts",
    "check_training",
    "clear_gradients",
    "clipping_functions",
    "clips_inside",
    "constructed_classes",
    "copy_tensor",
    "defer_compiler",
    "describe_modules",
    "describe_optimizer",
    "describe_scheduler",
    "describe_tensors",
    "follow_modules",
    "forget_names",
    "from_numpy",
    "give_gradients",
    "hold_parameters",
    "import_deferred",
    "join_models",
    "keep_mode",
    "learning_rates",
    "prepare",
    "read_buffers",
    "read_gradients",
    "read_optimizer_state",
    "read_parameters",
    "read_random",
    "read_rates",
    "read_settings",
    "read_state",
    "record_activations",
    "replace_dropout",
    "sample_model",
    "set_mode",
    "step_scheduler",
    "to_numpy",
    "train_step",
    "unwrap_model",
    "used_gradients",
    "version",
    "walk",
    "watch_backward",
    "watch_updates",
    "watches_loss",
    "write_optimizer_state",
    "write_random",
    "write_state",
    "write_tensors",
]
