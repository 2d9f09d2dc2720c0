"""The FLOPs of kernels, whose products a program's text does not show: a formula for each."""

import re

import numpy as np

from scaling.chips.hlo import Computation, Instruction

# Products of queries with keys, or of what has their shapes, in each of splash attention's kernels
# (scores and mixed values; scores, their gradient from values', queries'; the same with values' and
# keys'), and the names of its blocks. The fused backward kernel does all five.
SPLASH = {
    "fwd": (2, "block_q", "block_kv"),
    "dq": (3, "block_q_dq", "block_kv_dq"),
    "dkv": (4, "block_q_dkv", "block_kv_dkv"),
}


def target_of(instruction: Instruction) -> str:
    """Returns what a custom call calls."""
    return (instruction.attribute("custom_call_target", r'"[^"]*"') or "").strip('"')


def kernel_flops(inside: Computation, instruction: Instruction) -> float | None:
    """Returns the FLOPs of a kernel's products; None of one that has products without a formula.

    What has no products is 0: sorts, top-k, random numbers, marks of the compiler.
    """
    target = target_of(instruction)
    declared = re.search(r'"flops":\s*"?(\d+)', instruction.rest)
    if declared:
        return float(declared.group(1))
    if target.startswith("__cublas$"):
        return matrices(inside, instruction)
    if target.startswith("__cudnn$fmha"):
        return fused_attention(inside, instruction)
    found = re.search(r"splash_\w*?_?(fwd|dq|dkv)_", instruction.name)
    if target == "tpu_custom_call":
        return splash(inside, instruction, found.group(1)) if found else None
    return None if "matmul" in target or "conv" in target.lower() else 0.0


def matrices(inside: Computation, instruction: Instruction) -> float:
    """Counts a product that NVIDIA's library takes."""
    left = inside.arrays(instruction.operands[0])[0].shape
    over = re.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', instruction.rest)
    sizes = [left[int(i)] for i in re.findall(r"\d+", over.group(1))]
    return 2.0 * instruction.arrays[0].size * float(np.prod(sizes, initial=1.0))


def fused_attention(inside: Computation, instruction: Instruction) -> float:
    """Counts cuDNN's attention: two products forward, five backward, half of each if causal."""
    products = 5 if "Backward" in target_of(instruction) else 2
    found = re.search(
        r'"intermediate_tensor_shape":\s*\{.*?"dimensions":\s*\[([^\]]*)\]', instruction.rest
    )
    pairs = float(np.prod([int(x) for x in re.findall(r"\d+", found.group(1))]))
    size = inside.arrays(instruction.operands[0])[0].shape[-1]
    seen = 0.5 if "CAUSAL" in instruction.rest else 1.0
    return 2.0 * products * seen * pairs * size


def splash(inside: Computation, instruction: Instruction, part: str) -> float:
    """Counts a kernel of splash attention under a causal mask: whole blocks, where any is seen.

    Its operands are the mask's tables, then queries [.., H, L, K], keys [.., G, S, K] and values;
    the keys before the queries' own, S − L of them, are seen by all.
    """
    given = [inside.arrays(name)[0] for name in instruction.operands]
    query, key, value = [array for array in given if array.type in ("bf16", "f32")][:3]
    products, *names = SPLASH[part]
    if part == "dkv" and re.search(r'use_fused_bwd_kernel\\?": true', instruction.rest):
        products = 5
    rows, columns = (
        int(re.search(rf'\b{name}\\?": (\d+)', instruction.rest).group(1)) for name in names
    )
    length, reach = query.shape[-2], key.shape[-2]
    ends = np.arange(rows, length + rows, rows) + reach - length
    blocks = np.minimum(-(-ends // columns), -(-reach // columns)).sum()
    heads = float(np.prod(query.shape[:-2]))
    size = (query.shape[-1] + value.shape[-1]) / 2  # Half of the products are with values.
    return 2.0 * products * heads * float(blocks) * rows * columns * size
