"""Programs lowered from shapes alone, for devices that may not be there."""

import jax
import numpy as np

from scaling.mesh import batched, replicated, state_shardings
from scaling.state import abstract
from scaling.train import WINDOW_TYPE, Program, compiled


def lowered(program: Program) -> jax.stages.Lowered:
    """Traces a training program for its mesh without a value on any device."""
    mesh, config, steps = program.mesh, program.config, program.dispatch_steps
    state = abstract(program.recipe)
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        state_shardings(mesh, config, state),
    )
    whole = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=replicated(mesh))
    shape = (steps, program.sequences, config.context + 1)
    windows = jax.ShapeDtypeStruct(shape, WINDOW_TYPE, sharding=batched(mesh, 3, 1))
    rates = whole((steps,), np.float32)
    with jax.set_mesh(mesh):
        return compiled(program).lower(
            state, windows, rates, whole((), np.float32), whole((), np.int32)
        )
