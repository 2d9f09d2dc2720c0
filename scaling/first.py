"""The state before the first step, made on the devices that hold it.

Values are drawn by numpy, whose bits they keep on every machine: each process draws one parameter
at a time and sends what its devices hold of it. What the optimizer and averages add, twice as much
with AdamW, is made on the devices.
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from scaling.mesh import of_one_run, place, state_shardings
from scaling.recipe import Recipe
from scaling.state import Average, State, abstract, rules


def by_host(mesh: Mesh) -> bool:
    """Says whether a first state is better made by the host: for the one device of a CPU."""
    return of_one_run(mesh).size == 1 and mesh.devices.flat[0].platform == "cpu"


def on_devices(
    recipe: Recipe,
    mesh: Mesh,
    params: Iterable[tuple[str, Array]],
    buffers: Iterable[tuple[str, Array]],
) -> State:
    """Returns the state at which parameters and buffers begin to be trained, on a mesh.

    They are taken one after the other, and no more than one is on the host at a time.
    """
    like, one = abstract(recipe), of_one_run(mesh)
    layout = state_shardings(one, recipe.model, like)
    lay = lambda leaves, at: {path: place(x, at[path]) for path, x in leaves}
    params, buffers = lay(params, layout.params), lay(buffers, layout.buffers)
    with jax.set_mesh(one):
        moments, averages = maker(recipe.static, one)({path: params[path] for path in like.moments})
    return State(params=params, buffers=buffers, moments=moments, averages=averages)


@functools.cache
def maker(recipe: Recipe, mesh: Mesh):
    """Returns the jitted `make(trained parameters) -> (moments, averages)` of no step yet."""
    like = abstract(recipe)
    layout = state_shardings(mesh, recipe.model, like)

    def make(trained):
        with jax.numpy_dtype_promotion("standard"):
            moments = {
                path: jax.tree.map(jnp.copy, rule.transformation.init(trained[path]))
                for path, rule in rules(recipe, trained).items()
            }
        weight = jnp.zeros((), jnp.float32)
        averages = {path: Average(jnp.copy(trained[path]), weight) for path in like.averages}
        return moments, averages

    return jax.jit(make, out_shardings=(layout.moments, layout.averages))
