"""FLOPs of kernels by formula: from shapes, blocks and masks that a program's text gives."""

import pytest

from scaling.chips.hlo import read
from scaling.chips.kernels import kernel_flops

TEXT = """HloModule m

ENTRY %main (q: bf16[4,2,512,128], k: bf16[4,2,768,128]) -> bf16[4,2,512,128] {
  %t = s8[1,1,1]{2,1,0} parameter(2)
  %q = bf16[4,2,512,128]{3,2,1,0} parameter(0)
  %k = bf16[4,2,768,128]{3,2,1,0} parameter(1)
  %splash_mha_fwd_residuals.1 = bf16[4,2,512,128]{3,2,1,0} custom-call(%t, %t, %q, %k, %k), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256, \\"block_kv\\": 128}"
}}
  %splash_mha_dkv_no_residuals.1 = bf16[4,2,512,128]{3,2,1,0} custom-call(%t, %t, %q, %k, %k), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q_dkv\\": 512, \\"block_kv_dkv\\": 256, \
\\"use_fused_bwd_kernel\\": true}"
}}
  %other = bf16[4,2,512,128]{3,2,1,0} custom-call(%q), custom_call_target="tpu_custom_call"
  %declared = bf16[4]{0} custom-call(%q), custom_call_target="x", backend_config={"flops":"77"}
  %sort = bf16[4]{0} custom-call(%q), custom_call_target="TopK"
  %cudnn = bf16[4,2,512,128]{3,2,1,0} custom-call(%q, %k, %k), \
custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={"intermediate_tensor_shape": \
{"element_type":"BF16","dimensions": ["4", "2", "512", "768"]},"mask_type":"CAUSAL"}
  %gemm = bf16[4,2,512,512]{3,2,1,0} custom-call(%q, %q), custom_call_target="__cublas$gemm", \
backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["3"]}}
  ROOT %x = bf16[4,2,512,128]{3,2,1,0} negate(%q)
}
"""
ENTRY = read(TEXT).entry
HEADS = 4 * 2


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        # 256 keys before the tokens: the first 256 queries see 4 blocks of 128, the others 6.
        ("splash_mha_fwd_residuals.1", 2 * 2 * HEADS * 256 * 128 * (4 + 6) * 128),
        ("splash_mha_dkv_no_residuals.1", 2 * 5 * HEADS * 512 * 256 * 3 * 128),
        ("other", None),
        ("declared", 77),
        ("sort", 0),
        ("cudnn", 2 * 5 * HEADS * 512 * 768 * 128 / 2),
        ("gemm", 2 * HEADS * 512 * 512 * 128),
    ],
)
def test_kernels_count_by_their_formula(name, flops):
    assert kernel_flops(ENTRY, ENTRY.instructions[name]) == flops
